"""F45: the clock on the wall jumps. Only monotonic time is asked, so nothing happens."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

import fedsim
from tests.faults import toys

PACKAGES = ("engine", "records", "privacy", "train", "strategies", "codecs")
WALL = re.compile(r"\btime\.time(_ns)?\(|\bdatetime\.(now|today|utcnow)\(")
ALLOWED = {"records/lock.py": "for people", "engine/actor.py": "for the timeline"}


def test_a_run_asks_no_clock_that_can_jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toys.run(toys.plan(tmp_path / "ref"))
    for offset, name in ((-1e9, "back"), (1e9, "forth")):
        now = time.time
        monkeypatch.setattr(time, "time", lambda now=now, offset=offset: now() + offset)
        toys.run(toys.plan(tmp_path / name, num_rounds=1))
        toys.run(toys.plan(tmp_path / name))
        monkeypatch.undo()
        assert toys.hashes(tmp_path / name) == toys.hashes(tmp_path / "ref")


def test_no_module_of_a_run_reads_the_wall_clock() -> None:
    root = Path(fedsim.__file__).parent
    found = {
        str(path.relative_to(root))
        for package in PACKAGES
        for path in (root / package).rglob("*.py")
        if WALL.search(path.read_text())
    }
    assert found == set(ALLOWED)


def test_control_the_search_finds_what_it_looks_for() -> None:
    assert WALL.search("deadline = time.time() + 5")
    assert not WALL.search("deadline = time.monotonic() + 5")
