"""Failures of banks' work: what they are called, what helps, and the one place where is decided what follows.

A cause is found by ``of_error`` (the actor lives and reported an error), by ``engine.classify`` (the actor or what
carries its answer is gone) or by ``engine.validation`` (the answer cannot be used). ``decide`` then chooses an action.
Whoever keeps a journal writes the ``Failed`` event before it asks the driver for the next one: only then is the action
taken. ``Decided`` gives such actions back to a resumed round, so that it goes the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fedsim.core.errors import (
    DataError,
    FedsimError,
    ModelError,
    QuorumError,
    ResourceError,
    ScenarioError,
    SecurityError,
)
from fedsim.core.events import Action, Failed
from fedsim.core.sections import Failures

Decided = Mapping[str, Action]
"""By bank: "skip" or "alone", as decided when this round was run before."""

Name = Literal[
    "died",  # the actor's process ended
    "unreachable",  # it may live, and cannot be spoken to
    "node_lost",
    "out_of_memory",  # of the node, seen by Ray
    "out_of_gpu_memory",
    "disk_full",  # the object store could not spill
    "object_lost",  # an argument or an answer
    "late",  # the deadline passed
    "error",  # an exception in the bank's work
    "not_finite",  # the update holds NaN or infinity
    "mismatch",  # the update has other tensors than were asked for
    "too_large",  # the update's norm
    "quarantined",  # after too many refused updates
    "dropped_out",  # simulated, under secure aggregation
    "ray",  # any other failure of Ray
]

LESS_MEMORY = "lower resources.num_actors, resources.banks_per_actor or train.max_rows"
REMEDIES: Mapping[Name, str] = {
    "died": f"if the kernel ended it for want of memory (see dmesg), {LESS_MEMORY}",
    "unreachable": "look at the network between the nodes",
    "node_lost": "start the node again or let the run go on with fewer actors",
    "out_of_memory": LESS_MEMORY,
    "out_of_gpu_memory": "lower train.max_rows or resources.banks_per_actor, or raise resources.gpus_per_client",
    "disk_full": "make room where Ray spills (its temporary directory)",
    "object_lost": "a node that held it is gone; what banks keep is in the last checkpoint",
    "late": "raise failures.deadline_s or deadline_factor, or see what the bank waits for",
    "error": "failures.jsonl in the run directory has the traceback",
    "not_finite": "training diverged: lower train.lr",
    "mismatch": "the bank runs another scenario or another version of fedsim",
    "too_large": "training diverged or the bank is hostile: lower train.lr, or raise failures.max_norm",
    "quarantined": "raise failures.quarantine to ask it again",
    "dropped_out": "lower secure_aggregation.dropout",
    "ray": "see the logs of Ray",
}
STAYING: frozenset[Name] = frozenset(("error", "not_finite", "mismatch", "too_large", "quarantined", "dropped_out"))
"""What would only come again: the same inputs give the same bits."""
REFUSALS: frozenset[str] = frozenset(("not_finite", "mismatch", "too_large"))  # the bank has answered, and in vain


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an attempt came to nothing. ``error`` is what the actor raised, where it raised something."""

    name: Name
    message: str
    error: FedsimError | None = None
    ends_run: bool = False  # no other attempt and no other bank would fare better
    detail: str = ""  # all that Ray says, or where in the actor's code it was raised

    @property
    def passing(self) -> bool:
        """Whether the same work may succeed in another process."""
        return self.name not in STAYING and not self.ends_run

    @property
    def spoils_process(self) -> bool:
        """Whether the process that failed must not be used again: a GPU's memory comes back when its process ends."""
        return self.error is None or self.name == "out_of_gpu_memory"

    def as_error(self, where: str) -> FedsimError:
        """What ends the run: the actor's own error, or one line that says where, what and what helps."""
        if self.error is not None:
            return self.error
        resources = self.name in ("out_of_memory", "out_of_gpu_memory", "disk_full")
        kind = ResourceError if resources else QuorumError
        return kind(f"{where}: {self.name.replace('_', ' ')}: {self.message}; {REMEDIES[self.name]}")


def of_error(error: FedsimError, what: str) -> Cause:
    """The cause of an error that an actor reported while it did ``what``."""
    message, detail = str(error).removeprefix(f"{what}: "), "\n".join(getattr(error, "__notes__", ()))
    if isinstance(error, ResourceError):
        return Cause("out_of_gpu_memory", message, error, detail=detail)
    everyones = isinstance(error, (DataError, ModelError, ScenarioError, SecurityError))
    return Cause("error", message, error, everyones, detail)


def decide(failures: Failures, cause: Cause, attempt: int, cohort: int) -> Action:
    """What follows from the failure of ``attempt`` (from 1) at the work of ``cohort`` banks that train together.

    A cohort that raises is always taken apart, so that the bank is named whose fault it is. One whose process dies is
    taken apart only where banks may be skipped: alone a bank's sums are rounded differently, and a run that promises
    to repeat promises the same bits.
    """
    if cause.ends_run or failures.policy == "abort":
        return "abort"
    if cause.passing and attempt <= failures.retries:
        return "retry"
    if cohort > 1 and (failures.policy == "skip" or not cause.passing):
        return "alone"
    return "skip" if failures.policy == "skip" else "abort"


def failed(cause: Cause, round_: int, banks: Sequence[str], attempt: int, action: Action) -> Iterator[Failed]:
    """One event for each bank of an attempt. ``round_`` counts from 0."""
    for bank in banks:
        yield Failed(
            round=round_ + 1,
            bank=bank,
            attempt=attempt,
            cause=cause.name,
            message=cause.message,
            remedy=REMEDIES[cause.name],
            action=action,
            cohort=len(banks),
            detail=cause.detail,
        )


@dataclass(slots=True)
class Offences:
    """How often each bank's update was refused. ``note`` restores it from the failures of a run's earlier life."""

    limit: int
    counts: dict[str, int] = field(default_factory=dict)

    def note(self, one: Failed) -> None:
        if one.cause in REFUSALS and one.action != "clip":
            self.counts[one.bank] = self.counts.get(one.bank, 0) + 1

    def barred(self, round_: int, banks: Sequence[str]) -> Iterator[Failed]:
        """Those of a round's banks that are not asked again. ``round_`` counts from 0."""
        for bank in banks:
            count = self.counts.get(bank, 0)
            if count >= self.limit:
                cause = Cause("quarantined", f"{count} of its updates were refused")
                yield from failed(cause, round_, [bank], 0, "skip")


def too_few(failures: Failures, missing: Mapping[str, Failed], asked: int) -> QuorumError | None:
    """Names the banks that are missing, where the round may not go on without them."""
    answered, least = asked - len(missing), failures.least(asked)
    if asked == 0 or answered >= least:
        return None
    first = next(iter(missing.values()))
    named = "; ".join(f"{one.bank!r}: {one.cause.replace('_', ' ')}: {one.message}" for one in missing.values())
    return QuorumError(
        f"round {first.round}: {answered} of {asked} banks answered, failures.quorum {failures.quorum:g} asks for "
        f"{least}; nothing was aggregated; {named}; {first.remedy}"
    )
