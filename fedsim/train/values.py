"""What a trainer is asked and what it answers, beside the messages of ``core``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True)
class Scores:
    """What a model says of n rows. Metrics are computed from these alone, of all rows or of a bank's share."""

    rows: np.ndarray  # (n,) int64 indices into the corpus
    labels: np.ndarray  # (n,) int64, -1 for free text
    log_probs: np.ndarray  # (n, labels) log-probability of each label word; (n, 0) for free text
    nll: np.ndarray  # (n,) mean negative log-likelihood of the answer's tokens, nats
    judged: np.ndarray  # (n, judges) of written answers, as ``fedsim.train.answers``; (n, 0) where none was written

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: np.ndarray) -> Scores:
        """The scores at these positions (not row indices), in that order."""
        parts = (self.rows, self.labels, self.log_probs, self.nll, self.judged)
        return Scores(*(part[positions] for part in parts))
