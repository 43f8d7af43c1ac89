"""``fedsim watch``: a run directory tells the same story to somebody else."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest

from fedsim.core.errors import CheckpointError
from fedsim.core.events import Finished, RoundRow, Started
from fedsim.records.lock import LOCK, acquire, release
from fedsim.records.record import RunRecord
from fedsim.view import show, show_lines
from fedsim.watch import is_folder, run_in, watch
from tests.streams import NAMES, TRAIN, round_row, started, summary_of

SCENARIO = {"name": "quickstart", "num_rounds": 2, "privacy": {"kind": "dp_sgd", "dp_delta": 1e-5}}


def begun(folder: Path) -> RunRecord:
    record = RunRecord(folder)
    acquire(folder)
    record.begin(SCENARIO, {})
    record.add_split({"banks": [{"name": n, "train": t, "test": 50} for n, t in zip(NAMES, TRAIN, strict=True)]})
    return record


def test_rounds_come_as_they_are_written(tmp_path: Path) -> None:
    record = begun(tmp_path / "run")
    rows = [round_row(number) for number in range(3)]
    summary = summary_of(started(), rows, "completed", 9.0)
    steps = iter(
        [
            lambda: record.add_round(rows[1]),
            lambda: None,
            lambda: record.add_round(rows[2]),
            lambda: record.finish(summary),
        ]
    )
    record.add_round(rows[0])
    events = list(watch(tmp_path / "run", wait=lambda _: next(steps)()))
    assert isinstance(events[0], Started)
    assert (events[0].name, events[0].num_rounds, [bank.num_train for bank in events[0].banks]) == (
        "quickstart",
        2,
        list(TRAIN),
    )
    assert [event.round for event in events[1:-1] if isinstance(event, RoundRow)] == [0, 1, 2]
    assert events[-1] == Finished("completed", events[-1].summary, 0)


def test_a_row_is_the_row_that_was_written(tmp_path: Path) -> None:
    record, row = begun(tmp_path), round_row(1, private=False)
    record.add_round(row)
    seen = list(watch(tmp_path, once=True))[1]
    assert isinstance(seen, RoundRow)
    assert seen.epsilon == math.inf
    assert math.isnan(seen.banks[0].metrics["f1"])
    assert (seen.seconds, seen.bytes_up, seen.banks[1].bank) == (row.seconds, row.bytes_up, row.banks[1].bank)


def test_what_is_seen_is_what_the_run_showed(tmp_path: Path) -> None:
    record, rows = begun(tmp_path), [round_row(number) for number in range(3)]
    for row in rows:
        record.add_round(row)
    record.finish(summary_of(started(), rows, "completed", 9.0))

    def lines(events: object) -> list[str]:
        out = io.StringIO()
        show(events, False, False, out, out)  # type: ignore[arg-type]
        return out.getvalue().splitlines()

    own = lines([started(), *rows, Finished("completed", summary_of(started(), rows, "completed", 9.0))])
    watched = lines(watch(tmp_path))
    assert [line for line in watched if "run dir" not in line] == [
        line for line in own if "run dir" not in line and "buys 200 rounds" not in line
    ]


def test_once_says_that_the_run_goes_on(tmp_path: Path) -> None:
    record = begun(tmp_path)
    record.add_round(round_row(0))
    record.add_round(round_row(1))
    finished = list(watch(tmp_path, once=True))[-1]
    assert isinstance(finished, Finished)
    assert (finished.status, finished.exit_code) == ("running", 1)
    assert finished.summary["rounds"] == 1
    assert finished.summary["epsilon"] == 0.5


def test_who_watches_a_run_that_nobody_is_at_is_told(tmp_path: Path) -> None:
    """Killed, left without a summary, or a copy without its lock; a process of another machine may live."""
    record = begun(tmp_path)
    record.add_round(round_row(0))
    with pytest.raises(InterruptedError):  # it lives: it is waited for
        list(watch(tmp_path, wait=interrupt))
    lock = json.loads((tmp_path / LOCK).read_text())
    (tmp_path / LOCK).write_text(json.dumps({**lock, "start": "1"}))  # of a process that had this id before
    with pytest.raises(CheckpointError, match=r"round 0 was the last: process \d+, .* is gone; .*: fedsim resume "):
        list(watch(tmp_path, wait=interrupt))
    (tmp_path / LOCK).write_text(json.dumps({**lock, "start": "1", "host": "elsewhere"}))
    with pytest.raises(InterruptedError):
        list(watch(tmp_path, wait=interrupt))
    release(acquire(tmp_path, steal=True))
    with pytest.raises(CheckpointError, match="no process is at this run"):
        list(watch(tmp_path, wait=interrupt))
    (tmp_path / LOCK).unlink()
    with pytest.raises(CheckpointError, match="no process is at this run"):
        list(watch(tmp_path, wait=interrupt))


def interrupt(_: float) -> None:
    raise InterruptedError


@pytest.mark.parametrize(("status", "code"), [("budget_exhausted", 0), ("failed", 1), ("interrupted", 1)])
def test_the_exit_code_says_how_it_ended(tmp_path: Path, status: str, code: int) -> None:
    record = begun(tmp_path)
    record.finish(summary_of(started(), [round_row(0)], status, 1.0))
    finished = list(watch(tmp_path))[-1]
    assert isinstance(finished, Finished)
    assert finished.exit_code == code


def test_a_line_that_a_crash_cut_is_not_shown(tmp_path: Path) -> None:
    record = begun(tmp_path)
    record.add_round(round_row(0))
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 1')
    assert [event.round for event in watch(tmp_path, once=True) if isinstance(event, RoundRow)] == [0]


def test_of_a_grid_the_newest_run_and_of_anything_else_an_error(tmp_path: Path) -> None:
    import os

    for number, name in enumerate(("b", "a")):
        begun(tmp_path / name)
        os.utime(tmp_path / name / "scenario.yaml", (number, number))
    assert run_in(tmp_path) == tmp_path / "a"
    with pytest.raises(CheckpointError, match="is no run directory; give one that fedsim run has written"):
        run_in(tmp_path / "nowhere")


def test_a_slash_or_a_folder_means_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    assert is_folder("run")
    assert is_folder("results/typo")
    assert not is_folder("quickstart-1a2b3c4d")


def test_a_job_s_lines_and_its_exit_code() -> None:
    def job():
        yield "round 1"
        yield "was stopped"
        return 143

    out = io.StringIO()
    assert show_lines(job(), out) == 143
    assert out.getvalue() == "round 1\nwas stopped\n"
