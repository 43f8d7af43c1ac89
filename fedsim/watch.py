"""A run seen from elsewhere: the events that its directory tells, as it grows, or the lines of a job.

What is read is what anybody may read: nothing is asked of the run itself, so watching changes nothing and works over
any file system that shows the directory. The banks of a round that is not over are not known here.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedsim.core.document import read
from fedsim.core.errors import CheckpointError
from fedsim.core.events import BankRow, BankSummary, Event, Finished, RoundRow, Started
from fedsim.records.files import read_json, read_lines
from fedsim.records.grid import ENDED
from fedsim.records.lock import holder_of
from fedsim.records.summary import Summary

POLL_S = 0.5
RUNNING = "running"
NOT_ENDED_EXIT = 1  # of a run that failed, was stopped, or goes on


def watch(folder: Path, once: bool = False, wait: Callable[[float], None] = time.sleep) -> Generator[Event, None, None]:
    """Started, the rounds so far, those that come, and Finished once there is a summary.

    ``once``: Finished after the rounds so far, with the status "running". Of a grid's directory, the run that began
    last. CheckpointError when there is none, and when no process is at it any more that could bring it to its end. The
    exit code in Finished is 0 when the run came to its end, otherwise 1.
    """
    folder = run_in(folder)
    scenario = read(folder / "scenario.yaml").data
    started = Started(str(scenario["name"]), str(folder), int(scenario["num_rounds"]), _banks(folder, scenario))
    yield started
    shown, so_far, seconds = -1, Summary(started), 0.0
    while True:
        gone = None if once else _gone(folder)  # before the summary: who ends a run in good order writes one and leaves
        summary = _summary(folder)  # before the rounds: what is there when a run has ended is all
        for row in _rounds(folder):
            if row.round > shown:
                shown, seconds = row.round, seconds + row.seconds
                so_far.add(row)
                yield row
        if summary is not None:
            yield Finished(str(summary["status"]), summary, 0 if summary["status"] in ENDED else NOT_ENDED_EXIT)
            return
        if once:
            yield Finished(RUNNING, so_far.result(RUNNING, seconds), NOT_ENDED_EXIT)
            return
        if gone is not None:
            raise CheckpointError(
                f"{folder}: round {shown} was the last: {gone}; go on with it: fedsim resume {folder}"
            )
        wait(POLL_S)


def watch_job(job: str, address: str | None = None) -> Generator[str, None, int]:
    """What a job prints, how it ended, and as the generator's result the exit code of its command."""
    from fedsim.engine.jobs import Jobs

    jobs = Jobs(address)
    yield from jobs.lines(job)
    told, exit_code = jobs.ended(job)
    yield told
    return exit_code


def is_folder(target: str) -> bool:
    """Whether a run directory is meant, not a job: no job's name has a slash."""
    return "/" in target or Path(target).is_dir()


def run_in(folder: Path) -> Path:
    """The folder itself where it is a run's, else the newest run right below it."""
    begun = [path.parent for path in (folder / "rounds.jsonl", *folder.glob("*/rounds.jsonl")) if path.is_file()]
    runs = [run for run in begun if (run / "scenario.yaml").is_file()]
    if not runs:
        raise CheckpointError(f"{folder} is no run directory; give one that fedsim run has written, or a job's name")
    return folder if folder in runs else max(runs, key=lambda run: (run / "scenario.yaml").stat().st_mtime)


def _gone(folder: Path) -> str | None:
    """Why no process is at a run; None where one is or may be: of another machine's processes nothing is known."""
    holder = holder_of(folder)
    if holder is None or holder.pid is None:
        return "no process is at this run"
    if holder.here and not holder.alive:
        return f"process {holder.pid}, which was at this run since {holder.since}, is gone"
    return None


def _summary(folder: Path) -> dict[str, Any] | None:
    path = folder / "summary.json"
    return read_json(path) if path.exists() else None


def _banks(folder: Path, scenario: Mapping[str, Any]) -> tuple[BankSummary, ...]:
    """As far as the directory tells: whether there is noise, not how much."""
    privacy = scenario["privacy"]
    noise = 0.0 if privacy["kind"] == "none" else math.inf
    split = folder / "split.json"
    banks = read_json(split)["banks"] if split.exists() else []
    delta = privacy.get("dp_delta")
    return tuple(BankSummary(bank["name"], bank["train"], bank["test"], noise, math.nan, delta) for bank in banks)


def _rounds(folder: Path) -> Iterator[RoundRow]:
    """Whole rounds: a round is listed after its banks."""
    rounds = read_lines(folder / "rounds.jsonl")
    banks: dict[int, list[BankRow]] = {}
    for line in read_lines(folder / "banks.jsonl") if rounds else ():
        row = BankRow(**_known(line, BankRow))
        banks.setdefault(row.round, []).append(row)
    for line in rounds:
        row_banks = tuple(banks.get(line["round"], ()))
        yield RoundRow(**{**_known(line, RoundRow), "banks": row_banks})


def _known(line: Mapping[str, Any], event: type[BankRow | RoundRow]) -> dict[str, Any]:
    """The fields of an event; null is a number that JSON cannot say, and of epsilon it is infinity."""
    fields = {name: line[name] for field in dataclasses.fields(event) if (name := field.name) in line}
    for name in ("metrics", "oracle"):
        fields[name] = {key: math.nan if value is None else value for key, value in fields.get(name, {}).items()}
    fields["epsilon"] = math.inf if fields["epsilon"] is None else fields["epsilon"]
    return fields
