"""Which rows are run again and again, and in which groups what never changes of them is computed.

Groups are cut from the plan of the run alone: who trains first, or on how many actors, must not reach a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from fedsim.core import seeds
from fedsim.core.rows import BankRows, Rows
from fedsim.privacy.base import BankPlan

TRIED_ROWS = 64  # of its own training rows, a personal bank may look at this many to choose its final adapter
CUT_ROWS = 512  # of everyone's training rows, the threshold of F1 is chosen on this many
GROUP_ROWS = 16  # alone, a short row takes twice as long; a larger group saves little and may hold rows never drawn
EVALUATED_TOGETHER = 256  # rows that one actor scores at a time: a group lies within


def tried_rows(bank: BankRows, seed: int) -> np.ndarray:
    """The training rows on which a bank tries its final adapters, drawn once for the run."""
    if len(bank.train) <= TRIED_ROWS:
        return bank.train
    return np.sort(seeds.rng(seed, "tried", 0, bank.name).choice(bank.train, TRIED_ROWS, replace=False))


def cut_rows(banks: Iterable[BankRows], seed: int) -> np.ndarray:
    """Everyone's training rows on which the threshold of F1 is chosen for the global model, drawn once for the run."""
    train = np.unique(np.concatenate([bank.train for bank in banks]))
    if len(train) <= CUT_ROWS:
        return train
    return np.sort(seeds.rng(seed, "threshold").choice(train, CUT_ROWS, replace=False))


def trained_groups(
    rows: Rows,
    banks: Mapping[str, BankRows],
    plans: Mapping[str, BankPlan],
    num_rounds: int,
    tried: Mapping[str, np.ndarray],
) -> list[np.ndarray]:
    """Training rows of banks whose rows are drawn once or more each: below that, groups cost more than they save.

    Of the other banks, the rows that they try their own adapters on.
    """
    groups = []
    for name, bank in banks.items():
        plan = plans[name]
        draws = plan.sample_rate * plan.steps_per_round * num_rounds * plan.bank_rate
        if draws >= 1:
            groups += _similar(rows, bank.train)
        elif name in tried:
            groups += _similar(rows, tried[name])
    return groups


def scored_groups(rows: Rows, scored: np.ndarray, trained: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Test rows, sorted; each is scored twice at least, before the first round and after the last."""
    rest = np.setdiff1d(scored, np.concatenate([np.zeros(0, dtype=np.int64), *trained]))
    cuts = range(EVALUATED_TOGETHER, len(rest), EVALUATED_TOGETHER)
    return [group for chunk in np.split(rest, cuts) for group in _similar(rows, chunk)]


def _similar(rows: Rows, indices: np.ndarray) -> list[np.ndarray]:
    """Groups of rows of similar length."""
    ordered = indices[np.argsort(rows.lengths(indices), kind="stable")]
    return [ordered[start : start + GROUP_ROWS] for start in range(0, len(ordered), GROUP_ROWS)]
