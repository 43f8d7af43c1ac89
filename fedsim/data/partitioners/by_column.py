"""The natural split: one bank per value of a column (the lender of a loan, the state of a branch).

Banks are named by the value and ordered by size, then name. ``num_banks`` takes the largest; all other rows, those
without a value included, are dropped, merged into one more bank called "other", or an error, as ``rest`` says.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedsim.core import registry
from fedsim.core.errors import DataError
from fedsim.data.base import Columns, Partitioner, Split
from fedsim.data.columns import categories

OTHER = "other"


class ByColumn(Partitioner):
    drops = "with rest: drop, rows of other banks"

    class Config(registry.Config):
        column: str = Field(min_length=1, examples=["bank"], description="The column that names the bank.")
        num_banks: int | None = Field(default=None, ge=1, description="The largest so many; all of them if not given.")
        rest: Literal["drop", "merge", "error"] = Field(default="drop", description="What happens to all other rows.")
        min_partition_size: Annotated[int, Field(ge=1)] = Field(
            default=1, description="Smaller banks count as the rest."
        )

    config: Config

    def split(self, columns: Columns, rng: np.random.Generator) -> Split:
        config = self.config
        names, codes = categories(columns, config.column, allow_missing=True)
        sizes = np.bincount(codes[codes >= 0], minlength=len(names))
        ordered = sorted(range(len(names)), key=lambda code: (-sizes[code], names[code]))
        large = [code for code in ordered if sizes[code] >= config.min_partition_size]
        if len(large) < (config.num_banks or 1):
            raise DataError(
                f"column {config.column!r} has {len(large)} values with at least {config.min_partition_size} rows, "
                f"but num_banks is {config.num_banks}; lower num_banks or min_partition_size"
            )
        chosen = large[: config.num_banks]
        split = {names[code]: np.flatnonzero(codes == code) for code in chosen}
        rest = np.flatnonzero(~np.isin(codes, chosen))
        return self._with_rest(split, rest) if len(rest) else split

    def _with_rest(self, split: Split, rest: np.ndarray) -> Split:
        if self.config.rest == "drop":
            return split
        if self.config.rest == "merge" and OTHER not in split:
            return {**split, OTHER: rest}
        reason = f"a bank is already called {OTHER!r}" if self.config.rest == "merge" else "rest is error"
        raise DataError(
            f"{len(rest)} rows belong to none of the {len(split)} banks of column {self.config.column!r} and {reason}; "
            "set rest: drop, or raise num_banks"
        )
