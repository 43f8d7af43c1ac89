"""A folder of image files with one folder per class.

    <path>/<class>/<image>               or, with one more level (train and test, or one folder per bank):
    <path>/<folder>/<class>/<image>      the column ``folder`` then says which one a row is from

Needs Pillow (``pip install 'fedsim[images]'``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from fedsim.core.errors import DataError
from fedsim.core.rows import Corpus
from fedsim.data.base import Source
from fedsim.data.files import RawRows, reading, shown
from fedsim.data.images import IMAGE, image_corpus
from fedsim.data.rows import LabelsConfig

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


class ImageFolder(Source):
    """``kind: image_folder``."""

    class Config(LabelsConfig):
        path: str = Field(min_length=1, description="The folder that holds the class folders, or folders of these.")
        size: int | None = Field(
            default=None, ge=1, description="Resize to size x size pixels; null: all have one size."
        )
        channels: Literal[1, 3] = Field(default=3, description="3 for colour, 1 for grey.")

    config: Config

    def load(self, seed: int) -> Corpus:
        return image_corpus(self._read(Path(self.config.path)), "label", self.config, seed)

    def _read(self, folder: Path) -> RawRows:
        import pandas as pd

        if not folder.is_dir():
            raise DataError(f"{shown(folder)}: no such folder")
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
        levels = {len(file.relative_to(folder).parts) for file in files}
        if levels not in ({2}, {3}):
            raise DataError(
                f"{shown(folder)}: expected images ({', '.join(SUFFIXES)}) in class folders, or in class folders one "
                f"folder deeper, all alike; found {len(files)} images"
            )
        columns = {"label": [file.parent.name for file in files], IMAGE: [self._image(file) for file in files]}
        if levels == {3}:
            columns["folder"] = [file.parent.parent.name for file in files]
        names = tuple(shown(file) for file in files)
        return RawRows(pd.DataFrame(columns), names, np.arange(len(files)), np.ones(len(files), dtype=np.int64))

    def _image(self, file: Path) -> np.ndarray:
        """(height, width, channels) uint8"""
        try:
            from PIL import Image
        except ImportError as error:
            raise DataError("data kind image_folder needs Pillow: pip install 'fedsim[images]'") from error
        if not file.is_file():
            raise DataError(f"{shown(file)}: is not a regular file")
        with reading(file), Image.open(file) as opened:
            image = opened.convert("RGB" if self.config.channels == 3 else "L")
            if self.config.size is not None:
                image = image.resize((self.config.size, self.config.size), Image.Resampling.BILINEAR)
        return np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, self.config.channels)
