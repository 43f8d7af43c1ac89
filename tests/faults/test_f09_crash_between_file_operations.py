"""F9: the machine stops between any two file operations: what counts is the old round or the new one, never a mixture.

Everything that was not synced may be lost, be there, or be there in part, in any order.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fedsim.core.errors import BudgetError, CheckpointError
from fedsim.records.rounds import Rounds
from fedsim.records.wal import Log
from tests.faults.disks import Crash, Memory

FOLDER = Path()
LAST = 3


class Life:
    """A driver reduced to its writes. ``told`` is what the world may rely on."""

    def __init__(self, disk: Memory) -> None:
        self.ledger = Log(FOLDER / "ledger.wal", BudgetError, disk)
        self.journal = Log(FOLDER / "journal.wal", CheckpointError, disk)
        self.rounds = Rounds(FOLDER, disk)
        self.committed, self.charged = -1, 0

    def run(self) -> None:
        for log in (self.ledger, self.journal):
            if log.torn:
                log.mend({"torn": True})
        found = self.rounds.newest()
        previous = found.manifest if found else ""
        for number in range(found.round + 1 if found else 0, LAST + 1):
            self.ledger.append({"intent": number})
            self.charged += 1
            self.ledger.append({"commit": number})
            staged = self.rounds.stage(number, files(number), previous)
            self.journal.append({"row": number})
            self.rounds.commit(staged, {"epoch": 1})
            self.committed, previous = number, staged.manifest


def files(number: int) -> list[tuple[str, bytes]]:
    return [(name, f"{name} of round {number}".encode() * 3) for name in ("a", "b", "c")]


def manifests(disk: Memory) -> dict[str, bytes]:
    """Of the two newest rounds; an older one may have been on its way out."""
    rounds = Path("rounds")
    return {name: disk.read(rounds / name / "MANIFEST.json") for name in disk.names(rounds)[-2:]}


def violations(stop_at: int, seed: int, honest: bool = True) -> list[str]:
    """What is wrong after a crash at one operation and one fate of all that was not synced."""
    disk, wrong = Memory(stop_at=stop_at, honest=honest), []
    life = Life(disk)
    with pytest.raises(Crash):
        life.run()
    left = disk.after_crash(random.Random(seed))
    try:
        again = Life(left)
        found = again.rounds.newest()
    except (CheckpointError, BudgetError) as error:
        return [str(error)]
    number = found.round if found else -1
    if number not in (life.committed, life.committed + 1):
        wrong.append(f"round {number} counts after {life.committed} was committed")
    if found and dict(found.files) != dict(files(found.round)):
        wrong.append(f"round {number} is a mixture")
    if found and found.notes:
        wrong.append("; ".join(found.notes))
    if sum("intent" in record for record in again.ledger.records) + again.ledger.torn < life.charged:
        wrong.append("a charge is lost")
    again.run()
    reference = Memory()
    Life(reference).run()
    if manifests(left) != manifests(reference):
        wrong.append("other bits in the end")
    return wrong


def operations() -> int:
    disk = Memory()
    Life(disk).run()
    return disk.calls


def test_every_operation_may_be_the_last() -> None:
    assert operations() > 80
    for stop_at in range(1, operations() + 1):
        for seed in range(4):
            assert violations(stop_at, seed) == [], f"stopped before operation {stop_at}, fate {seed}"


def test_control_without_sync_it_would_be_noticed() -> None:
    wrong = [violations(stop_at, seed, honest=False) for stop_at in range(1, operations() + 1) for seed in range(2)]
    assert sum(map(bool, wrong)) > len(wrong) / 2


def test_control_head_before_its_round_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Memory, "rename", lambda self, old, new: _early(self, old, new))
    assert any(violations(stop_at, 0) for stop_at in range(1, operations() + 1))


def _early(disk: Memory, old: Path, new: Path) -> None:
    """A rename whose name is on the disk before what it names."""
    disk._step()
    parent = disk._parent(new)
    node = parent.now[new.name] = parent.safe[new.name] = disk._parent(old).now.pop(old.name)
    if hasattr(node, "safe") and isinstance(node.safe, dict):
        node.safe = {}
