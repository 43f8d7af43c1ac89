"""``--log``: every event a line of JSON with run, round, bank and attempt."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator

import pytest

from fedsim.core.errors import CheckpointError, DataError
from fedsim.core.events import BankDone, Event, Failed, Finished, Turn, Waiting
from fedsim.log import Log, logged
from tests.streams import round_row, started


def events() -> Iterator[Event]:
    yield started()
    yield round_row(0)
    yield Failed(1, "bank-00", 1, "died", "it died", "look", "retry")
    yield Waiting(10.0, "no node has room")
    yield BankDone(1, "bank-00", 1, 2)
    yield BankDone(1, "bank-01", 2, 2)
    yield round_row(1)
    yield Finished("completed", {"status": "completed"})


def lines_of(path) -> list[dict]:  # type: ignore[no-untyped-def,type-arg]
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines(tmp_path) -> None:
    given = list(events())
    assert list(logged((event for event in given), str(tmp_path / "log"))) == given
    lines = lines_of(tmp_path / "log")
    told = [(line["level"], line["event"], line.get("round"), line.get("bank"), line.get("attempt")) for line in lines]
    assert told == [
        ("info", "started", None, None, None),
        ("info", "round", 0, None, None),
        ("warning", "failed", 1, "bank-00", 1),
        ("warning", "waiting", None, None, None),
        ("info", "bank_done", 1, "bank-00", 2),
        ("info", "bank_done", 1, "bank-01", 1),
        ("info", "round", 1, None, None),
        ("info", "finished", None, None, None),
    ]
    assert all(line["run"] == "quickstart" and line["time"].endswith("+00:00") for line in lines)
    assert (lines[2]["cause"], lines[2]["action"]) == ("died", "retry")
    assert lines[6]["metrics"]["auc"] == 0.625


def test_an_error_is_the_last_line(tmp_path) -> None:
    def failing() -> Iterator[Event]:
        yield Turn(1, 2, "a", False)
        yield started()
        raise DataError("no column")

    with pytest.raises(DataError):
        list(logged(failing(), str(tmp_path / "log")))  # type: ignore[arg-type]
    last = lines_of(tmp_path / "log")[-1]
    assert (last["level"], last["event"], last["message"], last["exit_code"]) == ("error", "error", "no column", 3)


def test_a_reader_that_leaves_closes_the_run(tmp_path) -> None:
    closed = []

    def run() -> Iterator[Event]:
        try:
            yield from events()
        finally:
            closed.append(True)

    shown = logged(run(), str(tmp_path / "log"))  # type: ignore[arg-type]
    next(shown)
    shown.close()
    assert closed == [True]
    assert lines_of(tmp_path / "log")[-1]["event"] == "stopped"


def test_a_second_run_is_appended(tmp_path) -> None:
    for _ in range(2):
        list(logged(events(), str(tmp_path / "log")))  # type: ignore[arg-type]
    assert len(lines_of(tmp_path / "log")) == 16


def test_training_does_not_die_of_its_log() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb", 0) as raw:
        log = Log(io.TextIOWrapper(raw, write_through=True))
        for event in events():
            log.take(event)


def test_no_place_for_a_log(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot write the log .*: Is a directory; choose another"):
        next(logged(events(), str(tmp_path)))  # type: ignore[arg-type]
