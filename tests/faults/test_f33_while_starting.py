"""F33, F34, F35 while a run starts, and what ends a start: Ray comes up beside what is left to do in the main thread.

Whatever ends it, there is one line, its exit code, no process, no folder of Ray's, and a run directory one can use.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import psutil
import pytest
import ray

from fedsim.build import run as run_module
from fedsim.build.resume import Resume
from fedsim.build.run import resume, run
from fedsim.core.errors import CheckpointError, DataError, ModelError, ResourceError
from fedsim.core.events import Event, Started
from fedsim.engine import cluster, leftovers, remote
from fedsim.records.lock import acquire, release
from tests.engine import fakes
from tests.faults.test_f33_signals import (
    ROOT,
    SCENARIO,
    adapter_hash,
    environment,
    fedsim,
    of_session,
    require_nothing_left,
)

TINY = SCENARIO.replace("num_rounds: 12", "num_rounds: 1").replace("every: 12", "every: 1")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


# ------------------------------------------------------------------------------------------------ without Ray


class Slow:
    """Stands in for Ray and the driver: it is up after a moment, and notes what is done with it."""

    def __init__(self, *_: object) -> None:
        self.notes = NOTES
        self.notes.append("starts")

    def wait(self, actors: object, cohort: int) -> object:
        time.sleep(0.3)
        self.notes.append("is up")
        return actors

    def events(self, *_: object) -> Iterator[Event]:
        self.notes.append("actors start")
        raise ResourceError("no actor was placed")

    def close(self) -> None:
        self.notes.append("closed")


NOTES: list[str] = []


class Driver(Slow):
    def __init__(self) -> None:
        self.notes = NOTES


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(cluster, "Cluster", Slow)
    monkeypatch.setattr(remote, "RemoteDriver", Driver)
    NOTES.clear()
    return NOTES


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("model={kind: hf, id: ./nowhere}", ModelError),
        ("lora.target_modules=[nowhere]", ModelError),
        ("partition={kind: by_column, column: nix, num_banks: 2}", DataError),
    ],
)
def test_nothing_of_ray_starts_on_bad_input(tiny: Path, tmp_path: Path, notes, override: str, error: type) -> None:
    with pytest.raises(error):
        list(run(tiny, [override], tmp_path / "run"))
    assert notes == []
    assert not (tmp_path / "run").exists()


def test_actors_that_nobody_will_need_are_not_started(tiny: Path, tmp_path: Path, notes, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise ResourceError("a node lacks a file")

    monkeypatch.setattr(run_module.OnRay, "check", refuse)
    with pytest.raises(ResourceError, match="a node lacks a file"):
        list(run(tiny, (), tmp_path / "run"))
    assert notes == ["starts", "closed"]
    assert not (tmp_path / "run").exists()


def test_a_directory_that_another_holds_is_refused_and_all_ends(tiny: Path, tmp_path: Path, notes) -> None:
    out = tmp_path / "run"
    out.mkdir()
    fence = acquire(out)
    with pytest.raises(CheckpointError, match=f"is locked by process {os.getpid()}"):
        list(run(tiny, (), out))
    assert notes == ["starts", "closed"]
    release(fence)
    assert next(run(tiny, (), out, inline=True))


def test_a_driver_that_cannot_be_ended_does_not_keep_ray_alive(tiny: Path, tmp_path: Path, notes, monkeypatch) -> None:
    def fail(self: Driver) -> None:
        raise ray.exceptions.RaySystemError("gone")

    monkeypatch.setattr(Driver, "close", fail)
    with pytest.raises(ray.exceptions.RaySystemError):
        list(run(tiny, (), tmp_path / "run"))
    assert notes == ["starts", "is up", "actors start", "closed"]


def test_a_ray_that_does_not_start_is_one_line_and_the_run_can_go_on(tiny: Path, tmp_path: Path, monkeypatch) -> None:
    """Its thread raises, and the run meets it; the user is told once."""
    private, errors = tmp_path / "private", list[object]()
    private.mkdir()

    def init(**options: Any) -> None:
        assert Path(options["_temp_dir"]).parent.parent == private
        raise RuntimeError("no room for it")

    monkeypatch.setattr("threading.excepthook", errors.append)
    monkeypatch.setattr(leftovers, "_parent", lambda: str(private))
    monkeypatch.setattr(cluster, "_has_session", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(ResourceError, match=r"^Ray did not start or cannot be reached at 'local': no room for it$"):
        list(run(tiny, (), tmp_path / "run"))
    assert not errors
    assert not list(private.iterdir())
    monkeypatch.undo()
    assert isinstance(next(resume(tmp_path / "run", inline=True)), Started)


def interrupted(events: Iterator[Event], at: int) -> int:
    """Ctrl-C at one of fedsim's function calls, until the run has begun; the number of calls until then."""
    counter = itertools.count()
    root = str(Path(run_module.__file__).parents[1])

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(root) and next(counter) == at:
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        next(events)
    finally:
        sys.setprofile(None)
        with contextlib.suppress(ValueError):  # it is in the middle of something, which the interrupt was not
            events.close()  # type: ignore[attr-defined]
    return next(counter)


def started_again(tiny: Path, out: Path) -> str:
    """How a user goes on after it: with the same command, or with the one that its refusal names."""
    try:
        assert isinstance(next(run(tiny, (), out, inline=True)), Started)
    except CheckpointError as error:
        refusal = str(error)
    else:
        return "begun"
    assert f"fedsim resume {out}" in refusal
    assert isinstance(next(resume(out, inline=True)), Started)
    return "resumed"


def struck(events: Iterator[Event], at: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """What came of Ctrl-C at a call: "told"; "late" where the run began in fewer calls; or "dropped" by Python.

    It does that in a generator which is thrown away, and nothing but ``stopping._watch`` ends a process then, when
    its time is over; here the run begins.
    """
    ignored: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    try:
        calls = interrupted(events, at)
    except KeyboardInterrupt:
        return "told"
    if calls <= at:
        return "late"
    assert [type(one.exc_value) for one in ignored] == [KeyboardInterrupt]
    return "dropped"


def swept(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choose: Callable[[int], Sequence[int]]
) -> Counter[str]:
    """Where Ctrl-C came and how the run was started again. Of two starts the second has nothing to import."""
    calls = [interrupted(run(tiny, (), tmp_path / name, inline=True), -1) for name in ("first", "second")][-1]
    counts = Counter[str]()
    for at in choose(calls):
        out = tmp_path / str(at)
        counts[struck(run(tiny, (), out, inline=True), at, monkeypatch)] += 1
        counts[started_again(tiny, out)] += 1
    return counts


def test_ctrl_c_at_some_calls_of_a_start_leaves_a_directory_that_can_be_used(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept(tiny, tmp_path, monkeypatch, lambda number: [number - 2, *Random(4).sample(range(number), 5)])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ctrl_c_at_many_calls_of_a_start(tiny: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    counts = swept(tiny, tmp_path, monkeypatch, lambda number: Random(5).sample(range(number), min(number, 300)))
    with capsys.disabled():
        print(f"\nCtrl-C at {counts['begun'] + counts['resumed']} calls: {dict(counts)}")
    assert counts["begun"]
    assert counts["resumed"]
    assert counts["told"] > 0.9 * counts.total() / 2


def test_a_start_that_got_no_further_than_its_journal_begins_again(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert isinstance(next(run(tiny, (), out, inline=True)), Started)
    for path in out.iterdir():
        if path.name not in ("LOCK", "journal.wal"):
            path.unlink()
    assert isinstance(next(run(tiny, (), out, inline=True, how=Resume())), Started)
    (out / "notes.txt").touch()
    with pytest.raises(CheckpointError, match=f"fedsim resume {out}"):
        next(run(tiny, (), out, inline=True))


# ---------------------------------------------------------------------------------------------------- with Ray

STAGES = ("gcs_server", "raylet", "ray::_DriverProcess", "ray::ClientProcess", "LOCK")
SIGNALS = {"ctrl-c": [signal.SIGINT], "ctrl-c twice": [signal.SIGINT] * 2, "sigterm": [signal.SIGTERM]}


def has_come_to(stage: str, pid: int, out: Path) -> bool:
    if stage == "LOCK":
        return (out / stage).exists()
    names = []
    for process in of_session(pid):
        with contextlib.suppress(psutil.Error):
            names.append(" ".join([process.name(), *process.cmdline()[:1]]))
    return any(stage in name for name in names)


def command(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        fedsim(*arguments),
        env=environment(tmp_path),
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("reference")
    (folder / "tiny.yaml").write_text(TINY)
    list(run(folder / "tiny.yaml", (), folder / "run", inline=True))
    return adapter_hash(folder / "run")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", SIGNALS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_signal_at_a_stage_of_the_start(stage: str, kind: str, tiny: Path, tmp_path: Path, reference: str) -> None:
    out = tmp_path / "run"
    with command(tmp_path, "run", str(tiny), "--out", str(out)) as process:
        fakes.wait_until(lambda: has_come_to(stage, process.pid, out), timeout_s=200)
        start = time.monotonic()
        for number in SIGNALS[kind]:
            os.killpg(process.pid, number)
            time.sleep(0.2)
        shown, errors = process.communicate(timeout=60)
        seconds = time.monotonic() - start
    assert process.returncode == (143 if kind == "sigterm" else 130), errors
    assert seconds < (12 if kind == "ctrl-c" else 5)
    assert not errors
    assert shown.count("interrupted") <= 1
    assert "interrupted" in shown or len(SIGNALS[kind]) == 2
    require_nothing_left(process.pid)
    if out.exists():
        list(run(tiny, (), out, inline=True, how=Resume(wanted=True)))
        assert adapter_hash(out) == reference


WRONG = {
    "no model": (["--set", "model={kind: hf, id: /nowhere/model}"], 3, "/nowhere/model"),
    "no such module": (["--set", "lora.target_modules=[nowhere]"], 3, "target_modules"),
    "no rows": (["--set", "partition={kind: by_column, column: nowhere}"], 3, "nowhere"),
}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("what", WRONG)
def test_an_error_beside_ray_s_start(what: str, tiny: Path, tmp_path: Path) -> None:
    options, code, told = WRONG[what]
    with command(tmp_path, "run", str(tiny), "--out", str(tmp_path / "run"), *options) as process:
        shown, errors = process.communicate(timeout=200)
    assert (process.returncode, shown) == (code, "")
    assert told in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()
    require_nothing_left(process.pid)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_locked_directory_and_nodes_that_are_looked_at(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    fence = acquire(out)
    with command(tmp_path, "run", str(tiny), "--out", str(out), "--check-nodes") as process:
        shown, errors = process.communicate(timeout=200)
    assert (process.returncode, shown) == (6, "")
    assert f"is locked by process {os.getpid()}" in errors
    assert errors.count("\n") == 1
    require_nothing_left(process.pid)
    release(fence)
    with command(tmp_path, "run", str(tiny), "--out", str(out), "--check-nodes") as process:
        _, errors = process.communicate(timeout=200)
    assert (process.returncode, errors) == (0, "")
    require_nothing_left(process.pid)
