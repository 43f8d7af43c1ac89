"""Quantity skew: random rows, bank k = 0, 1, ... gets a share proportional to (k + 1) squared."""

from __future__ import annotations

import numpy as np

from fedsim.data.partitioners.linear import Linear


class Square(Linear):
    @staticmethod
    def weights(num_banks: int) -> np.ndarray:
        return np.arange(1, num_banks + 1, dtype=np.float64) ** 2
