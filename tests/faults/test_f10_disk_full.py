"""F10, F11: a full, read-only or failing disk. Nothing that counted is lost, and an fsync that fails is final."""

from __future__ import annotations

import errno
import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from fedsim.core.errors import BudgetError, CheckpointError
from fedsim.engine import driver, store
from fedsim.records.disk import Disk
from fedsim.records.rounds import Rounds
from fedsim.records.wal import Log
from tests.faults import toys
from tests.faults.disks import Refusing

SPOTS = [2, 9, 14, 19, 25, 33]  # of the changes of two rounds, by chance in all kinds of files


def run_on(monkeypatch: pytest.MonkeyPatch, folder: Path, disk: Disk) -> list[object]:
    monkeypatch.setattr(driver, "open_store", lambda plan: store.RunStore(plan, disk))
    try:
        return list(toys.run(toys.plan(folder, num_rounds=2)))
    finally:
        monkeypatch.undo()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ref")
    toys.run(toys.plan(folder, num_rounds=2))
    return folder


@pytest.mark.parametrize("spot", SPOTS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_the_run_ends_with_6_and_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: Path, spot: int, number: int
) -> None:
    disk = Refusing(spot, number)
    with pytest.raises(CheckpointError, match=os.strerror(number).lower()) as caught:
        run_on(monkeypatch, tmp_path, disk)
    assert caught.value.exit_code == 6
    assert "the last committed round is intact" in str(caught.value)
    assert disk.refused
    assert list(tmp_path.rglob(".tmp-*")) == [], "what was half done is gone"
    toys.run(toys.plan(tmp_path, num_rounds=2))
    assert toys.hashes(tmp_path) == toys.hashes(reference)
    assert toys.charged(tmp_path) == toys.charged(reference)


def test_a_full_disk_is_told_with_both_numbers(tmp_path: Path) -> None:
    disk = Refusing(1, errno.ENOSPC, only="write")
    with pytest.raises(CheckpointError, match=r"no space left on device: need 3000000 bytes, have \d+;"):
        Rounds(tmp_path, disk).stage(0, [("a", bytes(3_000_000))], "")


def test_a_failed_fsync_is_not_tried_again(tmp_path: Path) -> None:
    disk = Refusing(2, errno.EIO, only="sync")
    with pytest.raises(CheckpointError, match="input/output error"):
        Rounds(tmp_path, disk).stage(0, [("a", b"1")], "")
    assert disk.calls == 2, "no sync after the one that failed"
    with pytest.raises(CheckpointError, match="input/output error"):
        Log(tmp_path / "ledger.wal", BudgetError, Refusing(1, errno.EIO, only="sync")).append({"a": 1})


def test_a_record_that_was_refused_is_not_in_the_log(tmp_path: Path) -> None:
    log = Log(tmp_path / "a.wal", BudgetError, Refusing(2, errno.ENOSPC, only="append"))
    log.append({"a": 1})
    with pytest.raises(CheckpointError):
        log.append({"a": 2})
    again = Log(tmp_path / "a.wal", BudgetError)
    assert (again.records, again.torn) == ([{"a": 1}], False)


def test_control_a_refusal_that_is_passed_over_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: Path
) -> None:
    """With half a file under its name, the round is found to be damaged."""
    disk = Refusing(7, errno.ENOSPC, only="write")
    write = Refusing.write

    def careless(self: Refusing, path: Path, data: bytes) -> None:
        try:
            write(self, path, data)
        except OSError:
            return

    monkeypatch.setattr(Refusing, "write", careless)
    monkeypatch.setattr(driver, "open_store", partial(lambda plan, disk: store.RunStore(plan, disk), disk=disk))
    toys.run(toys.plan(tmp_path, num_rounds=1))
    found = Rounds(tmp_path).newest()
    assert found is None or found.notes or dict(found.files) == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="permission denied"):
        Rounds(tmp_path).stage(0, [("a", b"1")], "")


def test_a_directory_that_vanishes_ends_the_run(tmp_path: Path) -> None:
    plan = toys.plan(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(CheckpointError, match="found no lock"):
        toys.run(plan)
