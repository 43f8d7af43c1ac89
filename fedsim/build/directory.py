"""Going on with a run that was stopped: what must be as it was, what may have changed, and what follows from that.

scenario       the same, but for ``num_rounds``, ``resources`` and ``baselines``, which reach no committed bit
rows           the same to the bit, by fingerprint
surroundings   versions, CPU and threads decide rounding: they may differ, and then the same bits are not claimed
noise key      where noise is secure, the same key; else new noise has to be asked for and is charged again
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fedsim.build.prepare import Job, Material, fingerprint
from fedsim.build.resume import FREE, Resume, fixed, refused_changes
from fedsim.core.errors import CheckpointError, DataError
from fedsim.core.scenario import Scenario, digest_of
from fedsim.engine.store import JOURNAL, LEDGER, RunStore, StorePlan, open_journal
from fedsim.records.environment import environment
from fedsim.records.lock import LOCK, Fence, acquire, release
from fedsim.records.record import PREAMBLE, SCENARIO, make_folder
from fedsim.records.wal import Log

FORMAT = 1


class Directory:
    """A run directory that this process has locked."""

    def __init__(self, fence: Fence, journal: Log) -> None:
        self.folder, self.fence, self._journal = fence.folder, fence, journal
        self.notes: tuple[str, ...] = ()  # for the user, on what has changed
        self.same_bits = True  # False once any start of the run was in other surroundings than the first

    # -------------------------------------------------------------------------------------------------- the run

    def begin(self, scenario: Scenario, material: Material, job: Job, how: Resume) -> Job:
        """The job with a store in this directory, once it is sure that the run may go on from what is there.

        CheckpointError for another scenario, a lost noise key or no whole round; DataError for other rows.
        """
        rows, around = fingerprint(material), surroundings(job)
        told = self._told("run")
        if told is None:
            told = {"kind": "run", "format": FORMAT, "scenario": scenario.portable(), "rows": rows}
        self._require_same(told, scenario, rows)
        starts = [record for record in self._journal.records if record["kind"] == "start"]
        noise = self._noise(job, starts, around, how.new_noise)
        if self._told("run") is None:
            self._journal.append(told)
        self._journal.append({"kind": "start", "epoch": self.fence.epoch, "surroundings": around, "noise": noise})
        self._compare([*(start["surroundings"] for start in starts), around])
        store = StorePlan(
            folder=self.folder,
            fence=self.fence,
            identity=digest_of({"scenario": fixed(told["scenario"]), "rows": rows}),
            surroundings=digest_of({**around, "noise": noise}),
            repeatable=noise is None and job.actors.gpus == 0,
            fallback=how.fallback,
        )
        plan = replace(job.plan, store=store, notes=(*job.plan.notes, *self.notes))
        if starts:
            found = RunStore(store).restore()  # a refusal costs nothing here
            if found is not None and found.saved.state.round > plan.num_rounds:
                raise CheckpointError(
                    f"{self.folder} holds {found.saved.state.round} rounds, more than num_rounds asks for"
                )
        return replace(job, plan=plan)

    def _told(self, kind: str) -> Mapping[str, Any] | None:
        return next((record for record in self._journal.records if record["kind"] == kind), None)

    def _require_same(self, told: Mapping[str, Any], scenario: Scenario, rows: str) -> None:
        if told["format"] != FORMAT:
            raise CheckpointError(f"{self.folder} has format {told['format']}, this fedsim reads {FORMAT}: upgrade")
        changes = refused_changes(told["scenario"], scenario)
        if changes:
            raise CheckpointError(
                f"{self.folder} holds a run of another scenario: {'; '.join(changes)}. Only {', '.join(FREE)} may "
                "change: undo the changes or choose another directory"
            )
        if told["rows"] != rows:
            raise DataError(
                f"the rows or their division among banks are not those that {self.folder} was trained on: restore the "
                "data or choose another directory",
                "data",
            )

    def _noise(
        self, job: Job, starts: list[Mapping[str, Any]], around: Mapping[str, object], renew: bool
    ) -> dict[str, object] | None:
        """Which secret noise is drawn: a check of the key, and how often new noise was asked for. None when seeded.

        The same noise under another gradient would give the difference of the gradients away.
        """
        key = next(iter(job.plan.mechanisms.values())).key
        if key is None:
            return None
        last = starts[-1] if starts else None
        generation = int(last["noise"]["generation"]) if last else 0
        if last and renew:
            generation += 1
        elif last and (last["noise"]["check"] != key.check() or last["surroundings"] != around):
            raise CheckpointError(
                f"{self.folder}: the noise key of this run, or what it ran on, is not at hand any more, so that an "
                "interrupted round cannot be repeated; --new-noise draws new noise and charges such a round again"
            )
        if generation:
            fresh = replace(key, binding=f"{key.binding} {generation}")
            for mechanism in job.plan.mechanisms.values():
                mechanism.key = fresh
        return {"check": key.check(), "generation": generation}

    def _compare(self, known: list[Mapping[str, object]]) -> None:
        first, now = known[0], known[-1]
        self.same_bits = all(around == first for around in known)
        changed = [f"{name} {first.get(name)} -> {now[name]}" for name in now if now[name] != first.get(name)]
        if changed:
            self.notes = (f"Resumed in other surroundings, so the same bits are not claimed: {'; '.join(changed)}.",)

    # ------------------------------------------------------------------------------------------------ baselines

    def baseline(self, name: str, num_rounds: int) -> Mapping[str, object] | None:
        """The summary of a baseline that came to its end."""
        for record in self._journal.records:
            if record["kind"] == "baseline" and (record["name"], record["num_rounds"]) == (name, num_rounds):
                summary: Mapping[str, object] = record["summary"]
                return summary
        return None

    def add_baseline(self, name: str, num_rounds: int, summary: Mapping[str, object]) -> None:
        self._journal = open_journal(self.folder, self.fence)  # the driver has written to it
        self._journal.append({"kind": "baseline", "name": name, "num_rounds": num_rounds, "summary": summary})


@contextmanager
def claimed(folder: Path, how: Resume) -> Iterator[Directory]:
    """The directory for a new run or for one that goes on, locked. CheckpointError when it is of neither kind."""
    make_folder(folder)
    begun = holds_run(folder)
    if not begun and how.required:
        raise CheckpointError(f"{folder} holds no run")
    if begun and not how.wanted and (folder / SCENARIO).exists():
        raise CheckpointError(f"{folder} holds a run; go on with it: fedsim resume {folder}, or choose another")
    allowed = PREAMBLE if how.wanted else (LOCK, JOURNAL)  # an earlier start did not get as far as its scenario
    others = {name for name in os.listdir(folder) if not name.startswith(".")} - set(allowed)
    if not begun and others:
        raise CheckpointError(f"run directory {folder} is not empty; choose another or remove it")
    epochs = (record.get("epoch", 0) for record in open_journal(folder, None).records)
    fence = acquire(folder, how.steal_lock, above=max(epochs, default=0))
    try:
        yield Directory(fence, open_journal(folder, fence))
    finally:
        release(fence)


def holds_run(folder: Path) -> bool:
    """Whether a run was begun here. CheckpointError when only its ledger is left."""
    if any(record["kind"] == "run" for record in open_journal(folder, None).records):
        return True
    if (folder / LEDGER).exists():
        raise CheckpointError(f"{folder} holds a privacy ledger and no {JOURNAL}: its run cannot go on")
    return False


def surroundings(job: Job) -> dict[str, object]:
    """What decides the rounding of a sum, beside scenario and rows."""
    made = environment(job.plan.seed)
    return {
        "python": made["python"],
        "packages": made["packages"],
        "code": _code_digest(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": job.actors.threads,
        "gpus_per_client": job.actors.gpus,
    }


def _code_digest() -> str:
    """Of fedsim's own modules."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]
