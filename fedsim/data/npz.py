"""Images and labels as NumPy arrays in an ``.npz`` file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from pydantic import Field

from fedsim.core.errors import DataError
from fedsim.core.rows import Corpus
from fedsim.data.base import Source
from fedsim.data.columns import missing_column
from fedsim.data.files import RawRows, raw_rows, read_files, reading, shown
from fedsim.data.images import IMAGE, image_corpus
from fedsim.data.rows import LabelsConfig

SUFFIXES = (".npz",)


class Npz(Source):
    """Arrays of one length n; those of one number per image become columns, so that banks may be split by them.

    A pattern like ``cifar10_*.npz`` reads several files (one for training, one for test), told apart by the column
    ``file``.
    """

    class Config(LabelsConfig):
        path: str = Field(min_length=1, description="A file (.npz) or a pattern of files.")
        images: str = Field(
            default="x", min_length=1, description="The array (n, height, width[, channels]): uint8, or float as it is."
        )
        label: str = Field(default="y", min_length=1, description="The array (n,) of labels: numbers or words.")

    config: Config

    def load(self, seed: int) -> Corpus:
        return image_corpus(read_files(self.config.path, SUFFIXES, self._read), self.config.label, self.config, seed)

    def _read(self, file: Path) -> RawRows:
        import pandas as pd

        try:
            with reading(file), file.open("rb") as body, np.load(body, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except (ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"{shown(file)}: is not an .npz file of plain arrays ({error})") from error
        name, label = self.config.images, self.config.label
        for wanted, purpose in ((name, "the images"), (label, "the label")):
            if wanted not in arrays:
                raise DataError(f"{shown(file)}: {missing_column(wanted, purpose, arrays)}")
        images = _as_images(arrays.pop(name), f"{shown(file)}: array {name!r}")
        if arrays[label].size != len(images):
            raise DataError(f"{shown(file)}: {len(images)} images, but {arrays[label].size} labels in {label!r}")
        count = len(images)
        columns = {key: a.ravel() for key, a in arrays.items() if a.ndim and a.size == len(a) == count}
        return raw_rows(pd.DataFrame({**columns, IMAGE: list(images)}), shown(file))


def _as_images(array: np.ndarray, what: str) -> np.ndarray:
    """(n, height, width, channels) uint8 or float32"""
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or not len(array):
        raise DataError(f"{what} has shape {array.shape}; expected (n, height, width) or (n, height, width, channels)")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise DataError(f"{what} has type {array.dtype}; expected uint8 (0 to 255), or float as the model shall see it")
    return array.astype(np.float32)
