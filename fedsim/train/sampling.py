"""Which of a bank's rows take part in a local step, drawn as the accountant is told: Poisson, or a fixed number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsim.privacy.sources import Source


@dataclass(frozen=True, slots=True)
class Drawn:
    """One bank's rows in one step. Rows of one unit stand together; mostly a row is a unit of its own."""

    rows: np.ndarray  # (b,) int64 indices into the corpus
    units: np.ndarray  # (b,) int64, equal for rows of one unit

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of_rows(cls, rows: np.ndarray) -> Drawn:
        """Every row a unit."""
        return cls(rows, np.arange(len(rows)))


def poisson_rows(rows: np.ndarray, rate: float, source: Source) -> Drawn:
    """Each row independently with probability ``rate``; the batch may be empty. (1607.00133, Algorithm 1)"""
    return Drawn.of_rows(rows[source.uniform(len(rows)) < rate])


def fixed_rows(rows: np.ndarray, size: int, source: Source) -> Drawn:
    """``size`` rows without replacement, every subset alike; all of them where there are no more. In row order."""
    keys = source.uniform(len(rows))
    return Drawn.of_rows(rows[np.sort(np.argsort(keys, kind="stable")[:size])])


def poisson_units(rows: np.ndarray, units: np.ndarray, rate: float, most: int, source: Source) -> Drawn:
    """Each unit independently with probability ``rate``, with at most ``most`` of its rows, drawn anew.

    ``units`` (n,) says whose row each is. (2407.07737, user-level sampling)
    """
    names, number = np.unique(units, return_inverse=True)
    draws = source.uniform(len(names) + len(rows))
    chosen, keys = draws[: len(names)] < rate, draws[len(names) :]
    order = np.lexsort((keys, number))  # unit by unit, at random within a unit
    number = number[order]
    place = np.arange(len(rows)) - np.searchsorted(number, number)  # within the unit
    kept = chosen[number] & (place < most)
    return Drawn(rows[order][kept], number[kept])


def steps_of(local_steps: int | None, local_epochs: float | None, num_examples: int, batch_size: float) -> int:
    """Local steps of one job: as given, or as many as make ``local_epochs`` expected passes over the bank's rows."""
    if local_steps is not None:
        return local_steps
    if local_epochs is None:
        raise ValueError("give local_steps or local_epochs")
    return max(1, round(local_epochs * num_examples / batch_size))
