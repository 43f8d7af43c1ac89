"""From labelled images to a Corpus: the part that all sources of images share.

A source gives one row per image in a frame whose column ``image`` holds arrays (height, width, channels): uint8 from
0 to 255, or float32 as it is. All other columns are for partitions and for ``test``. Everything is held in memory.
"""

from __future__ import annotations

import numpy as np

from fedsim.core.errors import DataError
from fedsim.core.rows import Corpus
from fedsim.data.files import RawRows
from fedsim.data.rows import LabelsConfig, at_most, check_columns, labels_of, test_rows

IMAGE = "image"


def image_corpus(raw: RawRows, label: str, config: LabelsConfig, seed: int) -> Corpus:
    """Rows with images, the answer being the word for the column ``label``.

    DataError when columns are missing, labels are outside the set, or images differ in size or are not finite.
    """
    check_columns(raw, [(label, "the label")], config.test)
    test = test_rows(raw, config.test, seed)
    words, labels = labels_of(raw, label, config)
    raw, labels, test = at_most(config.max_rows, raw, labels, test, seed)
    answers = tuple(words[index] for index in labels.tolist())
    columns = {str(name): raw.frame[name].to_numpy() for name in raw.frame.columns if name != IMAGE}
    columns["label"] = np.array(answers, dtype=object)
    return Corpus(("",) * len(answers), answers, labels, words, test, columns, _stacked(raw))


def _stacked(raw: RawRows) -> np.ndarray:
    """(n, height, width, channels)"""
    images = raw.frame[IMAGE].tolist()
    for row, image in enumerate(images):
        if image.shape != images[0].shape:
            sizes = " and ".join(" x ".join(map(str, shape)) for shape in (images[0].shape, image.shape))
            raise DataError(f"{raw.place(row)}: images differ in size ({sizes}); bring them to one size")
        if image.dtype != np.uint8 and not np.isfinite(image).all():
            raise DataError(f"{raw.place(row)}: the image holds values that are not finite")
    return np.stack(images)
