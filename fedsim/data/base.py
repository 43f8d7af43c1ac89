"""The two contracts of this layer: where rows come from (Source) and which bank holds them (Partitioner).

A source reads everything once and returns a ``Corpus``: prompts, answers, labels, which rows are test rows, and every
column of the file. A partitioner sees the columns only and returns row indices, so a split is a pure function of values
and a seed. It splits train and test rows together: test membership is decided before, by the source, so that a bank's
test rows are as skewed as its training rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from fedsim.core.errors import DataError
from fedsim.core.registry import NoKnobs
from fedsim.core.rows import Corpus

Columns = Mapping[str, np.ndarray]  # each (n,): numbers, or objects with None or NaN where the file has nothing;
#                                      "embedding" is (n, d) float32
Split = dict[str, np.ndarray]  # bank name -> its rows; the order of the banks is the order of the run

# Knobs that many partitioners share. The examples are what the contract tests and the JSON Schema show.
NumBanks = Annotated[int, Field(ge=1, examples=[3], description="How many banks.")]
PartitionBy = Annotated[str, Field(min_length=1, examples=["label"], description="The column whose values count.")]
MinSize = Annotated[int, Field(ge=0, examples=[10], description="The fewest rows a bank may get, train and test.")]

MAX_DRAWS = 100  # of a random split before giving up on its minimum size


class Source(ABC):
    """One data set. ``load`` raises DataError, with file and row, for whatever is wrong with the data."""

    Config: ClassVar[type] = NoKnobs

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def load(self, seed: int) -> Corpus:
        """Every row; ``seed`` is the run's and decides random test rows, ``max_rows`` and whatever is synthetic."""


class Partitioner(ABC):
    """One way to split rows over banks. The number of banks is a knob (``num_banks``) where it has meaning."""

    Config: ClassVar[type] = NoKnobs
    drops: ClassVar[str] = ""  # which rows no bank gets, in words; empty: every row is given out
    embeds: ClassVar[bool] = False  # whether it looks at the column "embedding", which the base model makes

    def __init__(self, config: Any) -> None:
        self.config = config

    def require(self, corpus: Corpus) -> None:
        """DataError when these are not the rows that it can split: for one that was made for certain rows."""
        return

    @abstractmethod
    def split(self, columns: Columns, rng: np.random.Generator) -> Split:
        """Disjoint rows per bank, int64, in any order inside a bank; rows that no bank gets are dropped.

        Pure: ``columns`` is not changed and every draw comes from ``rng``. DataError when the columns do not allow it.
        """


def num_rows(columns: Columns) -> int:
    return len(next(iter(columns.values()), ()))


def numbered(parts: Sequence[np.ndarray]) -> Split:
    """Parts as bank-00, bank-01, ...: zero-padded, so that sorting by name keeps the order."""
    width = max(2, len(str(len(parts) - 1)))
    return {f"bank-{index:0{width}d}": np.asarray(part, dtype=np.int64) for index, part in enumerate(parts)}


def cut(rows: np.ndarray, shares: np.ndarray) -> list[np.ndarray]:
    """Consecutive parts of ``rows`` with sizes in proportion to ``shares`` (k,), each within one row of exact."""
    bounds = np.rint(np.cumsum(shares)[:-1] / shares.sum() * len(rows)).astype(np.int64)
    return np.split(rows, bounds)


def join(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Parts one after the other; no parts are no rows."""
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def draw_until(draw: Callable[[], list[np.ndarray]], minimum: int, remedy: str) -> Split:
    """The first of at most MAX_DRAWS random splits in which every bank has ``minimum`` rows.

    DataError names the smallest bank of the best draw: rejection must end, also when the minimum cannot be met.
    """
    best = numbered(draw())
    for _ in range(MAX_DRAWS - 1):
        if _smallest(best) >= minimum:
            break
        best = max(best, numbered(draw()), key=_smallest)
    if _smallest(best) >= minimum:
        return best
    name = min(best, key=lambda bank: len(best[bank]))
    total = sum(len(rows) for rows in best.values())
    raise DataError(
        f"{name} gets {len(best[name])} of {total} rows in the best of {MAX_DRAWS} draws, "
        f"but min_partition_size is {minimum}: {remedy}"
    )


def _smallest(split: Split) -> int:
    return min(len(rows) for rows in split.values())
