"""Quantity skew: random rows, bank k = 0, 1, ... gets a share proportional to k + 1."""

from __future__ import annotations

import numpy as np

from fedsim.core import registry
from fedsim.data.base import Columns, NumBanks, Partitioner, Split, cut, num_rows, numbered


class Linear(Partitioner):
    class Config(registry.Config):
        num_banks: NumBanks

    config: Config

    def split(self, columns: Columns, rng: np.random.Generator) -> Split:
        return numbered(cut(rng.permutation(num_rows(columns)), self.weights(self.config.num_banks)))

    @staticmethod
    def weights(num_banks: int) -> np.ndarray:
        """(num_banks,) positive, in any unit."""
        return np.arange(1, num_banks + 1, dtype=np.float64)
