"""F14: two processes on one run directory: the second is refused, a dead one's lock taken over, a late one fenced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedsim.core.errors import CheckpointError
from fedsim.records import lock
from fedsim.records.lock import LOCK, Fence, acquire, release
from tests.faults import toys

HOLD = "import sys; from pathlib import Path; from fedsim.records.lock import acquire; acquire(Path(sys.argv[1])); "
HOLD += "print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of ``tmp_path``."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_is_told_who_has_it(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    with pytest.raises(CheckpointError, match=rf"is locked by process {other.pid} on \S+ since 20\d\d-") as caught:
        acquire(tmp_path)
    assert caught.value.exit_code == 6


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert acquire(tmp_path).epoch == 2


def test_a_process_with_the_id_of_a_dead_one_is_not_it(tmp_path: Path) -> None:
    acquire(tmp_path)
    change(tmp_path, pid=os.getpid(), start="1")
    assert acquire(tmp_path).epoch == 2


def test_a_holder_on_another_machine_has_to_be_robbed(tmp_path: Path) -> None:
    acquire(tmp_path)
    change(tmp_path, host="elsewhere")
    with pytest.raises(CheckpointError, match=r"on elsewhere since .*; if that machine is gone for good: --steal-lock"):
        acquire(tmp_path)
    assert acquire(tmp_path, steal=True).epoch == 2


def test_who_left_in_good_order_holds_nothing(tmp_path: Path) -> None:
    release(acquire(tmp_path))
    assert acquire(tmp_path).epoch == 2


def test_a_damaged_lock_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("{")
    with pytest.raises(CheckpointError, match="LOCK is damaged"):
        acquire(tmp_path)
    assert acquire(tmp_path, steal=True, above=6).epoch == 7


def test_a_driver_that_was_robbed_writes_nothing_more(tmp_path: Path) -> None:
    plan = toys.plan(tmp_path, num_rounds=2)
    acquire(tmp_path, steal=True)
    with pytest.raises(CheckpointError, match=r"another process has taken over \(epoch 1, found epoch 2\)"):
        toys.run(plan)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK]


def test_leaving_late_does_not_free_the_lock_of_another(tmp_path: Path) -> None:
    first = acquire(tmp_path)
    second = acquire(tmp_path, steal=True)
    before = (tmp_path / LOCK).read_bytes()
    release(first)
    assert (tmp_path / LOCK).read_bytes() == before
    release(second)
    assert (tmp_path / LOCK).read_bytes() != before, "control"


def test_control_without_the_question_whether_it_lives_two_would_write(
    tmp_path: Path, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock.Holder, "alive", False)
    assert acquire(tmp_path).epoch == 2
    with pytest.raises(CheckpointError, match="another process has taken over"):
        Fence(tmp_path, 1)()


def change(folder: Path, **values: object) -> None:
    path = folder / LOCK
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
