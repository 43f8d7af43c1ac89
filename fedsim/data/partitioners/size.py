"""Random rows, bank sizes as listed; rows beyond their sum are dropped."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from fedsim.core import registry
from fedsim.core.errors import DataError
from fedsim.data.base import Columns, Partitioner, Split, num_rows, numbered

BankSize = Annotated[int, Field(ge=1)]


class Size(Partitioner):
    drops = "rows beyond the sum of partition_sizes"

    class Config(registry.Config):
        partition_sizes: tuple[BankSize, ...] = Field(min_length=1, examples=[(5, 3, 8)], description="Rows per bank.")

    config: Config

    def split(self, columns: Columns, rng: np.random.Generator) -> Split:
        return numbered(take_sizes(rng.permutation(num_rows(columns)), self.config.partition_sizes))


def take_sizes(rows: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Consecutive parts of the given sizes. DataError when there are fewer rows than asked for."""
    check_sizes(sizes, len(rows))
    return np.split(rows[: sum(sizes)], np.cumsum(sizes)[:-1])


def check_sizes(sizes: tuple[int, ...], count: int) -> None:
    if sum(sizes) > count:
        raise DataError(f"partition_sizes ask for {sum(sizes)} rows, but there are {count}")
