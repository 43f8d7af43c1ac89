"""Banks made of several values of a column: ``group_size`` branches, states or customers each.

Values are grouped in order (numbers before words). When they do not divide evenly, ``mode`` decides:

    allow-smaller    one more, smaller bank
    allow-bigger     the left-over values go to the first banks, one each
    drop-remainder   the left-over values are dropped
    strict           an error
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from fedsim.core import registry
from fedsim.core.errors import DataError
from fedsim.data.base import Columns, Partitioner, Split, numbered
from fedsim.data.columns import categories


class GroupedByColumn(Partitioner):
    drops = "with mode: drop-remainder, values left over"

    class Config(registry.Config):
        column: str = Field(min_length=1, examples=["bank"], description="The column whose values are grouped.")
        group_size: int = Field(ge=1, examples=[2], description="Values per bank.")
        mode: Literal["allow-smaller", "allow-bigger", "drop-remainder", "strict"] = "allow-smaller"

    config: Config

    def split(self, columns: Columns, rng: np.random.Generator) -> Split:
        names, codes = categories(columns, self.config.column)
        groups = self._groups(len(names))
        return numbered([np.flatnonzero(np.isin(codes, group)) for group in groups])

    def _groups(self, count: int) -> list[np.ndarray]:
        """The values of each bank, as positions in the sorted list of values."""
        size, mode = self.config.group_size, self.config.mode
        full, left = divmod(count, size)
        if full == 0 or (left and mode == "strict"):
            raise DataError(
                f"column {self.config.column!r} has {count} values, which do not make groups of {size}; "
                f"lower group_size{' or choose another mode' if full else ''}"
            )
        values = np.arange(count)
        groups = [values[first : first + size] for first in range(0, full * size, size)]
        if not left or mode == "drop-remainder":
            return groups
        if mode == "allow-smaller":
            return [*groups, values[full * size :]]
        if left > full:
            raise DataError(f"{left} values are left over for {full} banks of {size}; choose another group_size")
        extra = values[full * size :]
        return [np.append(group, extra[bank : bank + 1]) for bank, group in enumerate(groups)]
