"""Quantity skew: random rows, bank k = 0, 1, ... gets a share proportional to e to the k.

Ten banks span a factor of 8,000 in size: with more, the smallest are soon empty, which is an error.
"""

from __future__ import annotations

import numpy as np

from fedsim.data.partitioners.linear import Linear


class Exponential(Linear):
    @staticmethod
    def weights(num_banks: int) -> np.ndarray:
        return np.exp(np.arange(num_banks, dtype=np.float64) - num_banks)  # at most 1/e: no overflow
