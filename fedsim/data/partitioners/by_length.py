"""Feature skew that every text has: bank 0 gets the shortest prompts (in characters), the last bank the longest."""

from __future__ import annotations

import numpy as np

from fedsim.core import registry
from fedsim.data.base import Columns, NumBanks, Partitioner, Split, numbered
from fedsim.data.columns import numbers
from fedsim.data.partitioners.continuous import Strictness, along


class ByLength(Partitioner):
    class Config(registry.Config):
        num_banks: NumBanks
        strictness: Strictness = 1.0

    config: Config

    def split(self, columns: Columns, rng: np.random.Generator) -> Split:
        lengths = numbers(columns, "prompt_length")
        return numbered(along(lengths, self.config.num_banks, self.config.strictness, rng))
