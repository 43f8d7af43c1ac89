"""What a run tells the outside while it goes: values that the driver yields, records write and the live view draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fedsim.core.adapter import AdapterState
    from fedsim.core.messages import Exchange


@dataclass(frozen=True, slots=True)
class BankSummary:
    """One bank before the first round."""

    name: str
    num_train: int
    num_test: int
    noise_multiplier: float  # 0 without DP
    sample_rate: float
    delta: float | None = None  # at which epsilon is told; None: nothing is promised


@dataclass(frozen=True, slots=True)
class Started:
    """The run is planned and its actors are up. ``notes`` are sentences for the user (what a budget buys, warnings)."""

    name: str
    run_dir: str
    num_rounds: int
    banks: tuple[BankSummary, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """Where and when a bank was trained: for people who look at a run, never for a result."""

    actor: str  # short for one process
    start: float  # Unix time
    seconds: float  # of the whole cohort that was trained with it


@dataclass(frozen=True, slots=True)
class BankDone:
    """One bank of the current round has returned its update."""

    round: int
    bank: str
    done: int
    total: int
    work: Work | None = field(default=None, compare=False)
    more: bool = field(default=False, compare=False)  # what is told of banks that trained with it follows at once


Action = Literal["retry", "alone", "skip", "abort", "clip"]


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt at one bank's work that came to nothing, and what is done about it once this event was taken.

    ``action``: "retry": once more with the same inputs, which gives the same bits. "alone": the banks of its cohort
    are tried one by one. "skip": the round goes on without the bank. "abort": the run ends. "clip": the update is used
    at the length that is allowed.
    """

    round: int  # from 1
    bank: str
    attempt: int  # from 1; 0 where nothing was tried
    cause: str  # a word of ``engine.failures``
    message: str  # one line
    remedy: str
    action: Action
    cohort: int = 1  # banks that shared the attempt
    detail: str = ""  # the actor's traceback, or all that Ray says

    def __str__(self) -> str:
        others = f" and {self.cohort - 1} more of its cohort" if self.cohort > 1 else ""
        where = f"round {self.round}, bank {self.bank!r}{others}, attempt {self.attempt}"
        return f"{where}: {self.cause.replace('_', ' ')}: {self.message}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Waiting:
    """No actor can be placed at the moment. Told every few seconds until one is, or until the wait is over."""

    seconds: float  # waited so far
    message: str


@dataclass(frozen=True, slots=True)
class BankRow:
    """One bank after one round; ``metrics`` are on the bank's own test rows and empty when it was not evaluated.

    ``epsilon`` is what the bank has spent so far (inf without DP); byte counts are this round's.
    """

    round: int
    bank: str
    participated: bool
    num_train: int
    num_steps: int
    epsilon: float
    bytes_up: int
    bytes_down: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    oracle: Mapping[str, float] = field(default_factory=dict)  # training loss, clipped share: not seen in a deployment
    num_releases: int = 0  # noisy releases that the bank has been charged for so far


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One finished round. Round 0 is the evaluation before any training; training rounds count from 1."""

    round: int
    num_rounds: int
    metrics: Mapping[str, float]  # the global model on everyone's test rows; empty when not evaluated in this round
    banks: tuple[BankRow, ...]  # all in round 0; then those of whom there is news
    epsilon: float  # of the worst bank so far
    bytes_up: int  # of this round, all banks
    bytes_down: int
    seconds: float  # since the row before: where a round is measured, the next one may already be in training
    oracle: Mapping[str, float] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)  # banks of this round without whom it went on, and why


@dataclass(frozen=True, slots=True)
class Served:
    """A model when training is over, to be exported: an adapter and what lies frozen under it.

    ``bank`` is None for the global model, else the bank whose own model it is.
    """

    adapter: AdapterState
    frozen: tuple[AdapterState, ...]
    bank: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What crossed between server and banks in one round, for an audit: decoded, as whoever listens would have it."""

    exchanges: tuple[Exchange, ...]


@dataclass(frozen=True, slots=True)
class ShadowDone:
    """An attacker's own run has ended with this model; ``number`` counts from 1."""

    number: int
    served: Served


@dataclass(frozen=True, slots=True)
class BaselineDone:
    """A baseline of the scenario has run: "zero_shot", "local" or "pooled", with a summary like the run's own."""

    name: str
    summary: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Turn:
    """The next run of a grid. One that had ended before with the same scenario is not run again."""

    number: int  # from 1
    total: int
    name: str  # its varied values
    skipped: bool


@dataclass(frozen=True, slots=True)
class RunDone:
    """A run of a grid has ended, now or before."""

    name: str
    summary: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RunElsewhere:
    """One run of a grid is being done by another process."""

    name: str
    holder: str


@dataclass(frozen=True, slots=True)
class RunFailed:
    """A run of a grid could not be done; the others go on."""

    name: str
    error: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The end: ``summary`` is the object that ``fedsim run --format json`` prints."""

    status: str  # "completed", "budget_exhausted" or "interrupted"; of a grid "completed" or "failed"
    summary: Mapping[str, object]
    exit_code: int = 0  # of a grid: the highest of its failed runs


Event = (
    Started
    | BankDone
    | Failed
    | Waiting
    | Seen
    | RoundRow
    | Served
    | ShadowDone
    | BaselineDone
    | Turn
    | RunDone
    | RunElsewhere
    | RunFailed
    | Finished
)
