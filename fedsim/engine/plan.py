"""Everything a run is, as one value: built from a scenario, handed to a driver, pickled to where the driver lives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from fedsim.codecs import Codec
from fedsim.core.events import BankSummary, Started
from fedsim.core.messages import BankInfo
from fedsim.core.rows import BankRows
from fedsim.core.sections import Failures
from fedsim.engine.secure import Terms
from fedsim.engine.store import StorePlan
from fedsim.privacy.base import Curator, Mechanism
from fedsim.privacy.ledger import Ledger
from fedsim.strategies.base import LocalRule, Strategy
from fedsim.train.values import Scores


@dataclass(frozen=True)
class Evaluation:
    """When and what to measure. The model is always evaluated before the first and after the last round."""

    every: int  # rounds; 0: only before the first and after the last
    metrics: Callable[[Scores], Mapping[str, float]]
    per_bank: bool = True
    cut_on: np.ndarray | None = None  # (n,) training rows on which the global model's threshold of F1 is chosen


@dataclass(frozen=True)
class Plan:
    """``infos`` are the banks that train, in the order of every sum; ``banks`` those that are measured and reported.

    They are the same banks in the same order, except under pooled training: one bank then holds the rows of all.
    """

    name: str
    run_dir: str  # shown to the user
    seed: int
    num_rounds: int
    client_fraction: float
    strategy: Strategy
    rule: LocalRule
    download: Codec
    upload: Codec
    banks: tuple[BankRows, ...]
    infos: tuple[BankInfo, ...]
    mechanisms: Mapping[str, Mechanism]  # by bank that trains
    ledger: Callable[..., Ledger]  # takes ``log``: where it is written, and what it goes on from
    dp_cap: float | None  # no bank's epsilon may exceed it: the run stops before the round that would
    evaluation: Evaluation
    joins: Mapping[str, int] = field(default_factory=dict)  # first round, from 1, of banks that are not there from it
    notes: tuple[str, ...] = ()  # sentences for the user, shown when the run starts
    curator: Curator | None = None  # a trusted server that samples the banks and noises their mean
    failures: Failures = field(default_factory=Failures)  # what follows when a bank's work fails
    secure_sum: Terms | None = None  # the server sees the sum of the updates alone
    audited: bool = False  # whether what crosses in a round is handed out
    exports: bool = True  # whether adapters are handed out at the end; a baseline is only measured
    store: StorePlan | None = None  # where the driver leaves its rounds; None: nowhere

    def joined(self, round_: int) -> list[str]:
        """The banks that are there in a round (from 0), in order."""
        return [info.name for info in self.infos if self.joins.get(info.name, 1) <= round_ + 1]

    def scored(self) -> np.ndarray:
        """(n,) the rows that evaluations of the global model score, sorted."""
        more = [] if self.evaluation.cut_on is None else [self.evaluation.cut_on]
        return np.unique(np.concatenate([*(bank.test for bank in self.banks), *more]))

    def trainer_of(self, bank: str) -> str:
        """Who trains on a measured bank's rows."""
        return bank if bank in self.mechanisms else self.infos[0].name

    def started(self, notes: tuple[str, ...] = ()) -> Started:
        """What is told before the first round; ``notes`` besides the plan's own."""
        banks = []
        for bank in self.banks:
            mechanism = self.mechanisms[self.trainer_of(bank.name)]
            spend, terms = mechanism.spend(mechanism.plan.steps_per_round), mechanism.terms
            banks.append(
                BankSummary(
                    name=bank.name,
                    num_train=len(bank.train),
                    num_test=len(bank.test),
                    noise_multiplier=spend.noise_multiplier if spend else 0.0,
                    sample_rate=spend.sample_rate if spend else mechanism.plan.sample_rate,
                    delta=terms.dp_delta if terms else None,
                )
            )
        return Started(self.name, self.run_dir, self.num_rounds, tuple(banks), (*self.notes, *notes))
