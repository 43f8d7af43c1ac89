"""A run's log: every event as one line of JSON, for programs that collect logs.

Every line has ``time`` (UTC), ``level``, ``event`` and ``run`` (the scenario's name), and where they apply ``round``
(from 1), ``bank`` and ``attempt`` (from 1, of that bank in that round); the rest are the event's own values. Training
never dies of its log: what cannot be written any more is not written.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from fedsim.core import events as ev
from fedsim.core.errors import CheckpointError, FedsimError
from fedsim.core.events import Event
from fedsim.records.files import to_json

STDERR = "-"


def logged(events: Generator[Event, None, None], target: str) -> Generator[Event, None, None]:
    """The same events, each written to the file ``target`` (or with "-" to stderr) before it is handed on.

    CheckpointError when the file cannot be opened: before the run begins.
    """
    if target == STDERR:
        yield from _logged(events, Log(sys.stderr))
        return
    try:
        Path(target).open("a").close()
    except OSError as error:
        raise CheckpointError(f"cannot write the log {target}: {error.strerror}; choose another") from error
    with Path(target).open("a", encoding="utf-8", buffering=1) as file:
        yield from _logged(events, Log(file))


def _logged(events: Generator[Event, None, None], log: Log) -> Generator[Event, None, None]:
    try:
        with closing(events):
            for event in events:
                log.take(event)
                yield event
    except FedsimError as error:
        log.write("error", "error", {"message": str(error), "exit_code": error.exit_code})
        raise
    except BaseException as error:
        log.write("error", "stopped", {"message": type(error).__name__})
        raise


class Log:
    """Lines to a stream, with what earlier events said of the run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._gone = stream, False
        self._run = ""
        self._failures = Counter[tuple[int, str]]()  # attempts that failed, by round and bank

    def take(self, event: Event) -> None:
        """Write one event; how many there are of a round's kind grows with banks and rounds only."""
        told = self._told(event)
        if told is not None:
            self.write(*told)

    def write(self, level: str, name: str, values: Mapping[str, Any]) -> None:
        if self._gone:
            return
        now = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
        try:
            print(to_json({"time": now, "level": level, "event": name, "run": self._run, **values}), file=self._stream)
        except OSError:  # closed pipe, full disk
            self._gone = True

    def _told(self, event: Event) -> tuple[str, str, dict[str, Any]] | None:
        if isinstance(event, ev.Turn):
            return "info", "turn", {"number": event.number, "total": event.total, "settings": event.name}
        if isinstance(event, ev.Started):
            self._run = event.name
            self._failures.clear()
            banks = {bank.name: bank.num_train for bank in event.banks}
            return "info", "started", {"run_dir": event.run_dir, "num_rounds": event.num_rounds, "banks": banks}
        if isinstance(event, ev.BankDone):
            attempt = 1 + self._failures[event.round, event.bank]
            return "info", "bank_done", {"round": event.round, "bank": event.bank, "attempt": attempt}
        if isinstance(event, ev.Failed):
            return "warning", "failed", self._failed(event)
        if isinstance(event, ev.Waiting):
            return "warning", "waiting", {"seconds": event.seconds, "message": event.message}
        if isinstance(event, ev.RoundRow):
            return "info", "round", _round(event)
        if isinstance(event, ev.BaselineDone):
            return "info", "baseline", {"name": event.name, "metrics": event.summary["metrics"]}
        if isinstance(event, ev.RunFailed):
            return "error", "run_failed", {"settings": event.name, "message": event.error}
        if isinstance(event, ev.RunElsewhere):
            return "info", "run_elsewhere", {"settings": event.name, "message": event.holder}
        if isinstance(event, ev.RunDone | ev.Finished):
            status = event.summary.get("status")
            return "info", "run_done" if isinstance(event, ev.RunDone) else "finished", {"status": status}
        return None

    def _failed(self, event: ev.Failed) -> dict[str, Any]:
        self._failures[event.round, event.bank] = event.attempt
        where = {"round": event.round, "bank": event.bank, "attempt": event.attempt}
        return {**where, "cause": event.cause, "message": event.message, "action": event.action}


def _round(row: ev.RoundRow) -> dict[str, Any]:
    values = {"epsilon": row.epsilon, "bytes_up": row.bytes_up, "bytes_down": row.bytes_down, "seconds": row.seconds}
    took_part = sum(bank.participated for bank in row.banks)
    return {"round": row.round, "banks": took_part, "metrics": row.metrics, "loss": row.oracle.get("loss"), **values}
