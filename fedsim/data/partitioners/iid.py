"""Every bank draws from the same pool: a random split into equal parts (sizes differ by at most one)."""

from __future__ import annotations

import numpy as np

from fedsim.core import registry
from fedsim.data.base import Columns, NumBanks, Partitioner, Split, num_rows, numbered


class Iid(Partitioner):
    class Config(registry.Config):
        num_banks: NumBanks

    config: Config

    def split(self, columns: Columns, rng: np.random.Generator) -> Split:
        return numbered(np.array_split(rng.permutation(num_rows(columns)), self.config.num_banks))
