"""F47: what a killed run has left. Only what carries its mark, and whose run is gone, is ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fedsim.build.doctor import Finding, as_rows, as_text, doctor, exit_code
from fedsim.engine import leftovers
from fedsim.records.lock import LOCK, Fence, Holder, acquire, release

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"


def sleeper(environment: dict[str, str]) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.fixture
def family() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Two processes of a run that was killed, one of a run that lives (this one), and one of nobody's."""
    owner, plain = sleeper(dict(os.environ)), dict(os.environ)
    plain.pop(leftovers.MARK, None)
    dead, living = dict(plain), dict(plain)
    leftovers.mark(dead, owner.pid)
    leftovers.mark(living)
    found = {"orphan": sleeper(dead), "living": sleeper(living), "foreign": sleeper(plain)}
    owner.kill()
    owner.communicate()
    yield found
    for process in found.values():
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def only_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other programs on this machine are left alone, whatever they left over."""
    monkeypatch.setattr(psutil, "process_iter", psutil.Process().children)


def is_running(process: subprocess.Popen[str]) -> bool:
    return process.poll() is None


def left_over(findings: list[Finding]) -> list[str]:
    return [one.found for one in findings if one.name == "left over"]


def test_doctor_lists_and_cleans_what_a_killed_run_left(family, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(leftovers, "_parent", lambda: str(tmp_path))
    monkeypatch.setattr(leftovers, "END_S", 0.3)
    gone, mine = tmp_path / "fedsim-4194305-abcd", Path(leftovers.make_folder())  # no such process id
    gone.mkdir()
    (tmp_path / "fedsim-other").mkdir()
    orphan = str(family["orphan"].pid)
    told = left_over(doctor())
    assert any(f"process {orphan} " in line for line in told)
    assert not any(str(family[name].pid) in line for line in told for name in ("living", "foreign"))
    assert f"folder {gone}" in told
    assert is_running(family["orphan"]), "looking ends nothing"

    assert any(f"process {orphan} " in line and line.endswith("ended") for line in left_over(doctor(clean=True)))
    assert [name for name, process in family.items() if is_running(process)] == ["living", "foreign"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["fedsim-other", mine.name])


def test_control_without_the_look_at_the_owner_a_living_run_would_be_ended(family, monkeypatch) -> None:
    monkeypatch.setattr(leftovers, "_alive", lambda run: False)
    found = {one.pid for one in leftovers.processes()}
    assert family["living"].pid in found
    assert family["foreign"].pid not in found


def test_a_process_id_that_is_used_again_is_not_the_owner() -> None:
    born = psutil.Process().create_time()
    assert leftovers._alive(f"{os.getpid()}@{born:.2f}")
    assert not leftovers._alive(f"{os.getpid()}@{born - 100:.2f}")


def test_the_lock_of_a_killed_run_is_told_with_what_to_do(tmp_path, monkeypatch) -> None:
    runs = {name: tmp_path / name for name in ("alive", "ended", "grid/killed", "elsewhere", "damaged")}
    for folder in runs.values():
        folder.mkdir(parents=True)
        fence = acquire(folder)
    release(fence)  # of "damaged"
    release(Fence(runs["ended"], 1))
    change(runs["grid/killed"], pid=4194305)  # no such process id
    change(runs["elsewhere"], host="far")
    (runs["damaged"] / LOCK).write_text("{")
    told = {one.remedy.split()[2]: one for one in doctor(runs=tmp_path) if one.name == "locks"}
    assert set(told) == {str(runs[name]) for name in ("grid/killed", "elsewhere", "damaged")}
    killed, far, damaged = (told[str(runs[name])] for name in ("grid/killed", "elsewhere", "damaged"))
    assert "is locked by process 4194305" in killed.found
    assert killed.found.endswith("which is gone")
    assert killed.remedy == f"fedsim resume {runs['grid/killed']}"
    assert far.remedy.endswith("--steal-lock, if that machine is gone for good")
    assert "LOCK is damaged" in damaged.found

    monkeypatch.setattr(Holder, "alive", True)  # control
    assert str(runs["grid/killed"]) not in "".join(one.remedy for one in doctor(runs=tmp_path))
    (one,) = (one for one in doctor(runs=tmp_path / "alive") if one.name == "locks")
    assert (one.state, one.found) == ("ok", f"0 run directories in {tmp_path / 'alive'}, none of a killed run")


def change(folder: Path, **values: object) -> None:
    (folder / LOCK).write_text(json.dumps(json.loads((folder / LOCK).read_text()) | values))


def test_findings_are_a_table_json_and_an_exit_code() -> None:
    fine, bad = Finding("cpus", "ok", "2 usable"), Finding("disk", "fail", "full", "make room")
    assert as_text([fine, bad]) == "ok    cpus  2 usable\nfail  disk  full\n            -> make room"
    assert as_rows([fine]) == [{"name": "cpus", "state": "ok", "found": "2 usable", "remedy": ""}]
    assert (exit_code([fine]), exit_code([fine, bad])) == (0, 4)


def test_what_is_wrong_is_seen(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)
    states = {one.name: one.state for one in doctor()}
    assert (states["cpus"], states["ray token"], states["versions"]) == ("warn", "warn", "ok")
    token.chmod(0o600)
    monkeypatch.delenv("OMP_NUM_THREADS")
    states = {one.name: one.state for one in doctor()}
    assert (states["cpus"], states["ray token"]) == ("ok", "ok")
