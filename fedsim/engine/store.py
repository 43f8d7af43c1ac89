"""Where a driver leaves its run so that another can go on: rounds, the row of each, decisions and the privacy ledger.

The driver actor lives on the machine of the process that started the run, so that both see the same run directory.
Nothing here knows Ray.

    rounds/ HEAD    the state after a round (``engine.checkpoint``), committed whole (``records.rounds``)
    journal.wal     what happened: every start, every round's row, decisions before they are acted on
    ledger.wal      the privacy ledger, apart from all that can be rolled back

A round is committed in this order: its files, its row, HEAD. A round that is still to be measured is committed with
the draft of its row, and the journal gets the row itself before the next round is committed. What is shown and written
elsewhere follows from the journal, so a resumed run leaves the same tables as one that was never stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from fedsim.core.errors import BudgetError, CheckpointError
from fedsim.core.events import BankRow, Failed, RoundRow
from fedsim.core.messages import ServerState
from fedsim.engine.checkpoint import STATE, Saved, files_of, saved_from
from fedsim.engine.transport import Link
from fedsim.privacy.ledger import TORN, Log
from fedsim.records import wal
from fedsim.records.disk import DISK, Disk
from fedsim.records.lock import Fence
from fedsim.records.rounds import Found, Rounds, Staged

JOURNAL, LEDGER = "journal.wal", "ledger.wal"


@dataclass(frozen=True, slots=True)
class StorePlan:
    """What a driver needs to know to write its run. Both digests are part of what the ledger calls inputs."""

    folder: Path
    fence: Fence
    identity: str  # digest of scenario and rows: what decides the bits
    surroundings: str  # digest of versions, threads and noise key: what decides them too, and may change at a resume
    repeatable: bool  # the same inputs give the same bits: seeded noise, on CPUs
    fallback: bool = True


@dataclass(frozen=True, slots=True)
class Restored:
    """The newest committed round."""

    saved: Saved
    rows: list[RoundRow]  # of the rounds before it
    newest: RoundRow  # its own, or the draft of it
    is_whole: bool
    passed: tuple[str, ...]  # what was passed over to get to it


class Store(Protocol):
    """What the driver asks for. All errors are FedsimError."""

    @property
    def ledger(self) -> Log | None:
        """Where the privacy ledger is written; None: nowhere."""

    def restore(self) -> Restored | None:
        """None before the first commit."""

    def inputs(self, round_: int) -> str:
        """A hash of all that decides what a round gives: of the last staged state and what never changes."""

    def repeatable(self) -> bool:
        """Whether equal inputs give equal bits."""

    def stage(self, state: ServerState, links: Mapping[str, Link], kept: Iterable[tuple[int, bytes]]) -> None:
        """Write a state; it does not count yet."""

    def commit(self, row: RoundRow, whole: bool) -> None:
        """Make the staged state the one that counts, with the row of its round, or a draft of it."""

    def measured(self, row: RoundRow) -> None:
        """Write the row that the committed round's draft has become."""

    def note(self, failed: Failed) -> None:
        """Write a failure, and what was decided about it, before that is done."""

    def failures(self, round_: int) -> list[Failed]:
        """Those of a round (from 1) in earlier lives of the run, which decide the way that it goes again."""

    def forget(self, round_: int) -> None:
        """A round came to nothing: when it is tried again, its failures decide nothing."""


class Nowhere:
    """For a run that nobody will resume: a baseline, a test."""

    @property
    def ledger(self) -> None:
        return None

    def restore(self) -> None:
        return None

    def inputs(self, round_: int) -> str:
        return str(round_)

    def repeatable(self) -> bool:
        return True

    def stage(self, state: ServerState, links: Mapping[str, Link], kept: Iterable[tuple[int, bytes]]) -> None:
        """Nothing to write."""

    def commit(self, row: RoundRow, whole: bool) -> None:
        """Nothing to write."""

    def measured(self, row: RoundRow) -> None:
        """Nothing to write."""

    def note(self, failed: Failed) -> None:
        """Nothing to write."""

    def failures(self, round_: int) -> list[Failed]:
        return []

    def forget(self, round_: int) -> None:
        """Nothing to write."""


class RunStore:
    """The store in a run directory, which holds the journal of a run and a lock that this run has."""

    def __init__(self, plan: StorePlan, disk: Disk = DISK) -> None:
        self._plan = plan
        self._journal = open_journal(plan.folder, plan.fence, disk)
        self.ledger: wal.Log = wal.Log(plan.folder / LEDGER, BudgetError, disk, plan.fence)
        self._failures: dict[int, dict[tuple[str, int, str], Failed]] = {}  # what earlier lives decided, by round
        for record in self._journal.records:
            self._decide(record)
        self._rounds = Rounds(plan.folder, disk, plan.fence, str(plan.fence.epoch))
        self._manifest = plan.identity  # the one before the first
        self._staged: Staged | None = None

    def restore(self) -> Restored | None:
        found = self._rounds.newest(self._plan.fallback)
        if found is None:
            return None
        rows, newest, is_whole = self._rows(found)
        self._require_ledger(found)
        if not found.head:
            self._rounds.adopt(found, self._beside())
        self._manifest = found.manifest
        try:
            saved = saved_from(found.files)
            if saved.state.round != found.round:
                raise CheckpointError(f"{STATE} is of round {saved.state.round}")
            return Restored(saved, rows, newest, is_whole, found.notes)
        except CheckpointError as error:
            place = self._rounds.place(found.round)
            raise CheckpointError(
                f"{place}/{error}; its checksums are right, so it was not this run that wrote it: remove {place} to go "
                "on from the round before, or begin again in another directory"
            ) from error

    def inputs(self, round_: int) -> str:
        manifest = self._staged.manifest if self._staged else self._manifest
        parts = [self._plan.identity, self._plan.surroundings, manifest, round_]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def repeatable(self) -> bool:
        return self._plan.repeatable

    def stage(self, state: ServerState, links: Mapping[str, Link], kept: Iterable[tuple[int, bytes]]) -> None:
        self._staged = self._rounds.stage(state.round, files_of(state, links, kept), self._manifest)

    def commit(self, row: RoundRow, whole: bool) -> None:
        if self._staged is None or self._staged.round != row.round:
            raise ValueError(f"round {row.round} is not staged")
        beside = self._beside()
        done = {"manifest": self._staged.manifest, "ledger": beside["ledger"], "row": asdict(row), "whole": whole}
        try:
            self._journal.append({"kind": "round", **done})
        except CheckpointError:
            self._rounds.discard(self._staged)
            raise
        self._rounds.commit(self._staged, beside)
        self._manifest, self._staged = self._staged.manifest, None

    def measured(self, row: RoundRow) -> None:
        self._journal.append({"kind": "measured", "manifest": self._manifest, "row": asdict(row)})

    def _beside(self) -> dict[str, object]:
        """What HEAD holds beside the round: how long the ledger was, so that lines that vanish are missed.

        The journal holds it too: who loses HEAD loses no charge.
        """
        anchor = {"records": len(self.ledger.records), "sha256": self.ledger.digest()}
        return {"epoch": self._plan.fence.epoch, "ledger": anchor}

    def note(self, failed: Failed) -> None:
        self._journal.append({"kind": "failed", "failed": asdict(failed)})

    def failures(self, round_: int) -> list[Failed]:
        return list(self._failures.get(round_, {}).values())

    def forget(self, round_: int) -> None:
        self._journal.append({"kind": "forget", "round": round_})

    def _decide(self, record: Mapping[str, Any]) -> None:
        if record["kind"] == "failed":
            one = Failed(**record["failed"])
            self._failures.setdefault(one.round, {})[one.bank, one.attempt, one.cause] = one
        elif record["kind"] == "forget":
            self._failures.pop(record["round"], None)

    def _committed(self) -> list[Mapping[str, Any]]:
        """What the journal says of rounds, in the order of their commits."""
        return [record for record in self._journal.records if record["kind"] == "round"]

    def _rows(self, found: Found) -> tuple[list[RoundRow], RoundRow, bool]:
        """(the rows before the round that was found, its own, whether that is whole); of one made again the last."""
        path = self._plan.folder / JOURNAL
        committed: dict[int, Mapping[str, Any]] = {}  # by round
        measured: dict[str, Mapping[str, Any]] = {}  # by manifest
        own: Mapping[str, Any] | None = None  # what is told last of the round that was found
        for record in self._journal.records:
            if record["kind"] == "round":
                committed[record["row"]["round"]] = record
            elif record["kind"] == "measured":
                measured[record["manifest"]] = record
            if record["kind"] in ("round", "measured") and record["manifest"] == found.manifest:
                own = record
        rows = []
        for round_ in range(found.round + 1):
            if round_ not in committed:
                raise CheckpointError(f"{path} lacks the row of round {round_}")
            record = measured.get(committed[round_]["manifest"], committed[round_])
            if round_ < found.round and not record.get("whole", True):
                raise CheckpointError(f"{path} lacks what was measured after round {round_}")
            rows.append(record["row"])
        if own is None:
            raise CheckpointError(f"{path} is not the journal of the run whose round {found.round} was found beside it")
        return [_row(row) for row in rows[:-1]], _row(own["row"]), own.get("whole", True)

    def _require_ledger(self, found: Found) -> None:
        """BudgetError when lines are gone or others than those that a committed round was charged by."""
        anchor = self._committed()[-1].get("ledger") or found.head.get("ledger", {})  # the journal has checksums
        path = self._plan.folder / LEDGER
        try:
            count, digest = int(anchor["records"]), str(anchor["sha256"])
        except (KeyError, TypeError, ValueError) as error:
            raise BudgetError(f"{path}: nothing readable tells how long it was: no epsilon can be claimed") from error
        lines = self.ledger.records
        if len(lines) + self.ledger.torn < count:
            raise BudgetError(f"{path} has {len(lines)} of at least {count} lines: no epsilon can be claimed")
        mended = any(str(line.get("inputs", "")).startswith(TORN) for line in lines[count - 1 : count])
        if len(lines) >= count and not mended and self.ledger.digest_of(count) != digest:
            raise BudgetError(f"{path} is not the ledger of the committed round: no epsilon can be claimed")


def open_store(plan: StorePlan | None) -> Store:
    return Nowhere() if plan is None else RunStore(plan)


def open_journal(folder: Path, fence: Fence | None, disk: Disk = DISK) -> wal.Log:
    """A run's journal. With a fence it is mended: what a crash cut short had not been acted on."""
    journal = wal.Log(folder / JOURNAL, CheckpointError, disk, fence or wal.unguarded)
    if fence is not None and journal.torn:
        journal.mend()
    return journal


def _row(values: Mapping[str, Any]) -> RoundRow:
    banks: Sequence[Mapping[str, Any]] = values["banks"]
    return RoundRow(**{**values, "banks": tuple(BankRow(**bank) for bank in banks)})
