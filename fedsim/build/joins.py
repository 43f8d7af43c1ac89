"""From which round on each bank takes part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fedsim.core.errors import DataError, blaming, suggest
from fedsim.core.rows import BankRows, Corpus
from fedsim.core.scenario import Scenario
from fedsim.core.sections import Joins
from fedsim.data.columns import missing_column, times

TOLD = 8  # banks in the sentence for the user


def joins_of(scenario: Scenario, corpus: Corpus, banks: Sequence[BankRows]) -> dict[str, int]:
    """The first round, from 1, of every bank that is not there from the beginning.

    DataError for banks or columns that are not there, and where the first round would have no bank.
    """
    if scenario.joins is None or scenario.strategy.kind == "pooled":  # as a baseline
        return {}
    with blaming("joins"):
        if scenario.joins.column is None:
            found = _listed(scenario.joins.rounds or {}, banks, scenario.num_rounds)
        else:
            found = _by_time(scenario.joins, corpus, banks, scenario.num_rounds)
        if all(found.get(bank.name, 1) > 1 for bank in banks):
            raise DataError("no bank takes part in the first round; let one join in round 1")
    return {name: round_ for name, round_ in found.items() if round_ > 1}


def _listed(rounds: Mapping[str, int], banks: Sequence[BankRows], num_rounds: int) -> dict[str, int]:
    names = [bank.name for bank in banks]
    for name, round_ in rounds.items():
        if name not in names:
            raise DataError(f"no bank is called {name!r}.{suggest(name, names)} Banks: {', '.join(names[:20])}")
        if round_ > num_rounds:
            raise DataError(f"{name!r} would join in round {round_} of {num_rounds}: it would never take part")
    return dict(rounds)


def _by_time(joins: Joins, corpus: Corpus, banks: Sequence[BankRows], num_rounds: int) -> dict[str, int]:
    if joins.column not in corpus.columns:
        raise DataError(missing_column(str(joins.column), "joins", corpus.columns))
    moments = times(corpus.columns, str(joins.column), joins.format)
    everyone = np.sort(np.concatenate([moments[bank.train] for bank in banks]))
    earlier = {bank.name: int(np.searchsorted(everyone, moments[bank.train].min())) for bank in banks}
    return {name: 1 + rows * num_rounds // len(everyone) for name, rows in earlier.items()}


def told_of_joins(joins: Mapping[str, int]) -> Iterator[str]:
    """A sentence for the user, where a bank joins late."""
    if joins:
        listed = [f"{name} in round {round_}" for name, round_ in joins.items()]
        more = f" and {len(listed) - TOLD} more" if len(listed) > TOLD else ""
        yield f"Join late: {', '.join(listed[:TOLD])}{more}."
