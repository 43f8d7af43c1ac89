"""Label skew by a Dirichlet draw per class (Yurochkin et al., arXiv 1905.12022, section 4; Hsu et al., 1909.06335).

For every class c, p_c ~ Dirichlet(alpha) over the banks, and bank k gets the share p_ck of the class's rows. With a
small alpha a class lives at few banks, and banks differ in size. A draw that leaves a bank below ``min_partition_size``
is thrown away, at most MAX_DRAWS times. ``self_balancing`` gives nothing more to a bank that already has its average
share, as the authors' code does. Rows of a class are shuffled before they are cut.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from fedsim.core import registry
from fedsim.core.errors import DataError
from fedsim.data.base import Columns, MinSize, NumBanks, PartitionBy, Partitioner, Split, cut, draw_until, join
from fedsim.data.columns import categories

Positive = Annotated[float, Field(gt=0)]


class Dirichlet(Partitioner):
    class Config(registry.Config):
        num_banks: NumBanks
        alpha: Positive | tuple[Positive, ...] = Field(examples=[0.5], description="One number, or one per bank.")
        partition_by: PartitionBy = "label"
        min_partition_size: MinSize = 10
        self_balancing: bool = False

        @model_validator(mode="after")
        def _one_alpha_per_bank(self) -> Dirichlet.Config:
            if isinstance(self.alpha, tuple) and len(self.alpha) != self.num_banks:
                raise ValueError(f"alpha lists {len(self.alpha)} values for num_banks {self.num_banks}; one per bank")
            return self

    config: Config

    def split(self, columns: Columns, rng: np.random.Generator) -> Split:
        names, codes = categories(columns, self.config.partition_by)
        minimum, banks = self.config.min_partition_size, self.config.num_banks
        if minimum * banks > len(codes):
            raise DataError(f"{len(codes)} rows cannot give {banks} banks min_partition_size {minimum} each")
        remedy = "raise alpha, or lower num_banks or min_partition_size"
        return draw_until(lambda: self._draw(codes, len(names), rng), minimum, remedy)

    def _draw(self, codes: np.ndarray, num_classes: int, rng: np.random.Generator) -> list[np.ndarray]:
        banks = self.config.num_banks
        alpha = np.broadcast_to(np.asarray(self.config.alpha, dtype=np.float64), banks)
        parts: list[list[np.ndarray]] = [[] for _ in range(banks)]
        sizes = np.zeros(banks)
        for label in range(num_classes):
            shares = rng.dirichlet(alpha)
            if self.config.self_balancing:
                shares = _balanced(shares, sizes < len(codes) / banks)
            rows = rng.permutation(np.flatnonzero(codes == label))
            for bank, part in enumerate(cut(rows, shares)):
                parts[bank].append(part)
                sizes[bank] += len(part)
        return [join(part) for part in parts]


def _balanced(shares: np.ndarray, has_room: np.ndarray) -> np.ndarray:
    """The shares of banks with room only; equal ones where all of those are zero (tiny alpha)."""
    left = shares * has_room
    return left if left.sum() > 0 else has_room.astype(np.float64)
