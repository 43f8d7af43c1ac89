"""Feature skew along a number (income, loan amount): bank 0 gets the smallest values, the last bank the largest.

Rows are sorted by b = strictness * z + (1 - strictness) * noise, z the standardised values and noise ~ N(0, 1), and cut
into equal parts (flwr-datasets' continuous). 0 is iid, 1 is a strict order; ties are broken at random.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from fedsim.core import registry
from fedsim.data.base import Columns, NumBanks, Partitioner, Split, numbered
from fedsim.data.columns import numbers

Strictness = Annotated[float, Field(ge=0, le=1, examples=[0.7], description="0: random, 1: sorted by the value.")]


class Continuous(Partitioner):
    class Config(registry.Config):
        num_banks: NumBanks
        partition_by: str = Field(min_length=1, examples=["amount"], description="A column of numbers.")
        strictness: Strictness

    config: Config

    def split(self, columns: Columns, rng: np.random.Generator) -> Split:
        values = numbers(columns, self.config.partition_by)
        return numbered(along(values, self.config.num_banks, self.config.strictness, rng))


def along(values: np.ndarray, num_banks: int, strictness: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Equal parts of the rows in (blurred) order of ``values`` (n,)."""
    if not len(values):
        return [np.zeros(0, dtype=np.int64)] * num_banks
    centred = values / max(np.abs(values).max(), 1.0)  # no overflow in the squares
    centred = centred - centred.mean()
    z = centred / (centred.std() or 1.0)
    blurred = strictness * z + (1 - strictness) * rng.standard_normal(len(values))
    order = np.lexsort((rng.random(len(values)), blurred))
    return np.array_split(order, num_banks)
