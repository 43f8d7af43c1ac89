"""Label skew at given bank sizes (Acar et al., arXiv 2111.04263): every bank draws its own label mixture.

Bank k has s_k rows and p_k ~ Dirichlet(alpha) over the classes. Row by row, a bank that still has room is picked with
equal chance and takes a row of a class drawn from p_k. A class that runs out leaves all p_k; a bank whose remaining
classes all have probability zero (small alpha) takes the classes that are left in proportion to their rows, where the
usual code divides by zero.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field, model_validator

from fedsim.core import registry
from fedsim.core.errors import DataError
from fedsim.data.base import Columns, NumBanks, PartitionBy, Partitioner, Split, num_rows, numbered
from fedsim.data.columns import categories
from fedsim.data.partitioners.dirichlet import Positive
from fedsim.data.partitioners.size import BankSize, check_sizes


class InnerDirichlet(Partitioner):
    drops = "rows beyond the sum of partition_sizes"

    class Config(registry.Config):
        num_banks: NumBanks
        alpha: Positive | tuple[Positive, ...] = Field(examples=[0.5], description="One number, or one per class.")
        partition_by: PartitionBy = "label"
        partition_sizes: tuple[BankSize, ...] | None = Field(default=None, description="Rows per bank; null: equal.")

        @model_validator(mode="after")
        def _one_size_per_bank(self) -> InnerDirichlet.Config:
            if self.partition_sizes is not None and len(self.partition_sizes) != self.num_banks:
                raise ValueError(
                    f"partition_sizes lists {len(self.partition_sizes)} sizes, num_banks is {self.num_banks}"
                )
            return self

    config: Config

    def split(self, columns: Columns, rng: np.random.Generator) -> Split:
        names, codes = categories(columns, self.config.partition_by)
        alpha = self.config.alpha
        if isinstance(alpha, tuple) and len(alpha) != len(names):
            raise DataError(f"alpha lists {len(alpha)} values for {len(names)} classes of {self.config.partition_by!r}")
        sizes = self._sizes(num_rows(columns))
        mixtures = rng.dirichlet(np.broadcast_to(np.asarray(alpha, dtype=np.float64), len(names)), size=len(sizes))
        pools = [rng.permutation(np.flatnonzero(codes == label)).tolist() for label in range(len(names))]
        turns = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
        return numbered(_deal(turns, mixtures, pools, rng))

    def _sizes(self, count: int) -> tuple[int, ...]:
        if self.config.partition_sizes is not None:
            check_sizes(self.config.partition_sizes, count)
            return self.config.partition_sizes
        return tuple(len(part) for part in np.array_split(np.arange(count), self.config.num_banks))


def _deal(
    turns: np.ndarray, mixtures: np.ndarray, pools: list[list[int]], rng: np.random.Generator
) -> list[np.ndarray]:
    """The rows of each bank: at every turn one bank takes a row of a class drawn from its mixture (banks, classes)."""
    parts: list[list[int]] = [[] for _ in mixtures]
    left = np.array([len(pool) for pool in pools], dtype=np.float64)
    reach = _cumulative(mixtures, left)
    for bank, draw in zip(turns.tolist(), rng.random(len(turns)).tolist(), strict=True):
        label = int(reach[bank].searchsorted(draw * reach[bank][-1], side="right"))
        parts[bank].append(pools[label].pop())
        left[label] -= 1
        if not pools[label]:
            reach = _cumulative(mixtures, left)
    return [np.array(part, dtype=np.int64) for part in parts]


def _cumulative(mixtures: np.ndarray, left: np.ndarray) -> np.ndarray:
    """(banks, classes) running sums over the classes that still have rows."""
    usable = mixtures * (left > 0)
    stuck = usable.sum(axis=1) <= 0
    usable[stuck] = left
    return np.cumsum(usable, axis=1)
