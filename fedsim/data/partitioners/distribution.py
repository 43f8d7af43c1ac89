"""Shares of every label per bank, as written in the scenario.

    distribution: {repaid: [1, 2, 1], default: [0, 0, 1]}     three banks; all defaults are at the last one

With ``rescale`` (the default) a label's numbers are shares of its rows, all of which are given out. Without it they are
counts, and the label's other rows are dropped. A label that is not listed is an error.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from fedsim.core import registry
from fedsim.core.errors import DataError, suggest
from fedsim.data.base import Columns, PartitionBy, Partitioner, Split, cut, join, numbered
from fedsim.data.columns import categories, plain

Shares = tuple[Annotated[float, Field(ge=0)], ...]


class Distribution(Partitioner):
    drops = "with rescale: false, rows beyond the counts"

    class Config(registry.Config):
        distribution: dict[bool | int | float | str, Shares] = Field(
            min_length=1,
            examples=[{"repaid": (1, 2, 1), "default": (0, 0, 1)}],
            description="Label -> one number per bank.",
        )
        partition_by: PartitionBy = "label"
        rescale: bool = Field(default=True, description="Numbers are shares of a label's rows; false: they are counts.")

        @model_validator(mode="after")
        def _rectangular(self) -> Distribution.Config:
            lengths = {len(shares) for shares in self.distribution.values()}
            if len(lengths) != 1 or lengths == {0}:
                raise ValueError(f"distribution: every label needs one number per bank (got {sorted(lengths)} numbers)")
            for label, shares in self.distribution.items():
                if not sum(shares) > 0:
                    raise ValueError(f"distribution: the numbers of {label!r} are all zero")
                if not self.rescale and any(share != int(share) for share in shares):
                    raise ValueError(f"distribution: with rescale: false the numbers of {label!r} must be whole")
            return self

    config: Config

    def split(self, columns: Columns, rng: np.random.Generator) -> Split:
        names, codes = categories(columns, self.config.partition_by)
        shares_of = {plain(label): np.array(shares) for label, shares in self.config.distribution.items()}
        for label in names:
            if label not in shares_of:
                raise DataError(f"distribution does not list the label {label!r}; it has {', '.join(shares_of)}")
        for label in shares_of:
            if label not in names:
                raise DataError(f"distribution lists {label!r}, which no row has.{suggest(label, names)}")
        pieces = []
        for code, label in enumerate(names):
            rows = rng.permutation(np.flatnonzero(codes == code))
            pieces.append(self._share(rows, shares_of[label], label))
        return numbered([join(parts) for parts in zip(*pieces, strict=True)])

    def _share(self, rows: np.ndarray, shares: np.ndarray, label: str) -> list[np.ndarray]:
        if self.config.rescale:
            return cut(rows, shares)
        counts = shares.astype(np.int64)
        if counts.sum() > len(rows):
            raise DataError(f"distribution asks for {counts.sum()} rows of {label!r}, but there are {len(rows)}")
        return np.split(rows[: counts.sum()], np.cumsum(counts)[:-1])
