"""Handwritten digits that come with scikit-learn: 1,797 grey images of 8 x 8 pixels, ten classes. Needs no file."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from fedsim.core.registry import Config as Knobs
from fedsim.core.rows import Corpus
from fedsim.data.base import Source
from fedsim.data.files import raw_rows
from fedsim.data.images import IMAGE, image_corpus
from fedsim.data.rows import HeldOut, LabelsConfig


class Digits(Source):
    """``kind: digits``."""

    class Config(Knobs):
        test_fraction: float = Field(
            default=0.2, gt=0, lt=1, description="Share of test rows, by a hash of the row number."
        )
        max_rows: int | None = Field(
            default=None, ge=1, description="Use this many rows, chosen at random by the seed."
        )

    config: Config

    def load(self, seed: int) -> Corpus:
        import pandas as pd
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = (digits.images / 16).astype(np.float32)[..., None]  # the file's pixels go from 0 to 16
        raw = raw_rows(pd.DataFrame({"label": digits.target, IMAGE: list(images)}), "digits")
        config = LabelsConfig(test=HeldOut(fraction=self.config.test_fraction), max_rows=self.config.max_rows)
        return image_corpus(raw, "label", config, seed)
