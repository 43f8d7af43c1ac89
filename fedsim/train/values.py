"""What a trainer is asked and what it answers, beside the messages of ``core``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedsim.core.adapter import AdapterState
from fedsim.core.messages import Spend
from fedsim.strategies.base import Outcome


@dataclass(frozen=True, slots=True)
class Trained:
    """One bank after its local steps, before anything is encoded. ``outcome.delta`` has passed the mechanism."""

    bank: str
    outcome: Outcome
    num_examples: int
    num_steps: int
    spend: Spend | None  # None: nothing is promised
    oracle: Mapping[str, float] = field(default_factory=dict)  # training loss, clipped share


@dataclass(frozen=True, slots=True)
class EvalJob:
    """Rows to score under one adapter; ``bank`` is None for the global one."""

    bank: str | None
    adapter: AdapterState
    frozen: tuple[AdapterState, ...]
    rows: np.ndarray  # (n,) int64 indices into the corpus
    written: bool = True  # whether answers are to be written, where the run's metrics need them
    cut_on: np.ndarray | None = None  # training rows on whose scores the threshold of F1 is chosen, where it is asked


@dataclass(frozen=True, slots=True)
class Scores:
    """What a model says of n rows. Metrics are computed from these alone, of all rows or of a bank's share."""

    rows: np.ndarray  # (n,) int64 indices into the corpus
    labels: np.ndarray  # (n,) int64, -1 for free text
    log_probs: np.ndarray  # (n, labels) log-probability of each label word; (n, 0) for free text
    nll: np.ndarray  # (n,) mean negative log-likelihood of the answer's tokens, nats
    judged: np.ndarray  # (n, judges) of written answers, as ``fedsim.train.answers``; (n, 0) where none was written
    cut: float = 0.0  # log-odds of the positive word above which it is answered where F1 asks; 0: the likelier word

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: np.ndarray) -> Scores:
        """The scores at these positions (not row indices), in that order."""
        return replace(self, **{name: getattr(self, name)[positions] for name in BY_ROW})

    @classmethod
    def joined(cls, parts: Sequence[Scores]) -> Scores:
        """Several, one after the other, without a threshold."""
        return replace(parts[0], cut=0.0, **{n: np.concatenate([getattr(part, n) for part in parts]) for n in BY_ROW})


BY_ROW = ("rows", "labels", "log_probs", "nll", "judged")  # of Scores
