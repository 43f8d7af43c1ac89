"""What events say: lines of at most 80 columns."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from fedsim.core.events import (
    BankDone,
    BaselineDone,
    Event,
    Failed,
    RoundRow,
    RunDone,
    RunElsewhere,
    RunFailed,
    Started,
    Turn,
    Waiting,
)
from fedsim.core.metrics import METRICS, headline
from fedsim.records.failures import replay_command
from fedsim.records.table import WIDTH, aligned, overall
from fedsim.records.text import UNKNOWN, human_bytes, human_epsilon, human_metric, human_seconds

FOLLOWS = {
    "retry": "repeating it",
    "alone": "trying its banks one by one",
    "skip": "going on without the bank",
    "abort": "ending the run",
    "clip": "using it at that length",
}
WIDTHS = (9, 5, 6, 8, 7, 7, 7, 7, 7)  # of the columns of a round's line: 79 with the gaps


class Story:
    """Turns events into lines of at most 80 columns, and knows how far the run is."""

    def __init__(self) -> None:
        self._in_grid = False
        self._begin()

    def _begin(self) -> None:
        self.run_dir = ""
        self.num_rounds = 0
        self.round = 0  # the last one that is over
        self.banks_done, self.banks_total = 0, 0  # of the round that is not
        self._private = False
        self._metric: str | None = None  # of the metric column
        self._has_header = False
        self._seconds: list[float] = []  # of each training round
        self._failure: tuple[object, ...] = ()  # the last one told: banks of a cohort fail together

    @property
    def rounds_done(self) -> float:
        """With the share of the banks that are done in the round that goes on."""
        return self.round + (self.banks_done / self.banks_total if self.banks_total else 0.0)

    @property
    def seconds_left(self) -> float | None:
        """At the mean pace of the rounds so far; None before the first."""
        if not self._seconds:
            return None
        return sum(self._seconds) / len(self._seconds) * (self.num_rounds - self.rounds_done)

    def tell(self, event: Event) -> Iterator[str]:
        """The lines that an event is worth."""
        if isinstance(event, Started):
            self.run_dir, self.num_rounds = event.run_dir, event.num_rounds
            self._private = any(bank.noise_multiplier > 0 for bank in event.banks)
            yield from _opening(event)
        elif isinstance(event, BankDone):
            self.banks_done, self.banks_total = event.done, event.total
        elif isinstance(event, Failed):
            yield from self._failed(event)
        elif isinstance(event, Waiting):
            yield f"{event.message} ({human_seconds(event.seconds)} so far)"
        elif isinstance(event, RoundRow):
            yield from self._round(event)
        elif isinstance(event, BaselineDone):
            yield f"baseline {event.name}: {_headline_of(event.summary)}"
        elif isinstance(event, Turn):
            self._begin()
            self._in_grid = True
            yield f"[{event.number}/{event.total}] {event.name}{': has ended before' if event.skipped else ''}"
        elif isinstance(event, RunDone):
            yield f"{_headline_of(event.summary)}\n"
        elif isinstance(event, RunFailed):
            yield f"failed: {event.error}\n"
        elif isinstance(event, RunElsewhere):
            yield f"left to another: {event.holder}\n"

    def stopped(self) -> str:
        """What is left of a run that is told to stop."""
        if not self.run_dir:
            return "interrupted before the run began"
        remedy = "start it again" if self._in_grid else f"fedsim resume {shlex.quote(self.run_dir)}"
        return f"interrupted after {self.round} of {self.num_rounds} rounds; to go on: {remedy}"

    def _failed(self, event: Failed) -> Iterator[str]:
        this = (event.round, event.attempt, event.message, event.action)
        if event.cohort == 1 or this != self._failure:
            replay = f"; replay: {replay_command(self.run_dir)}" if event.cause == "error" else ""
            yield f"{event}{replay}: {FOLLOWS[event.action]}"
        self._failure = this

    def _round(self, row: RoundRow) -> Iterator[str]:
        self.round, self.banks_done, self.banks_total = row.round, 0, 0
        if row.round > 0:
            self._seconds.append(row.seconds)
        metrics = overall(row.metrics, [bank.metrics for bank in row.banks])
        metric = headline(metrics) or self._metric
        if not self._has_header or metric != self._metric:
            title = METRICS[metric].title if metric else ""
            yield aligned(("round", "banks", "loss", title, "epsilon", "up", "down", "time", "left"), WIDTHS)
        self._has_header, self._metric = True, metric
        left, answered = self.seconds_left, sum(bank.participated for bank in row.banks)
        cells = (
            f"{row.round}/{row.num_rounds}",
            f"{answered}/{answered + len(row.failed)}" if row.failed else str(answered),
            human_metric(row.oracle.get("loss")),
            human_metric(metrics.get(metric or "")),
            human_epsilon(row.epsilon if self._private else None),
            human_bytes(row.bytes_up),
            human_bytes(row.bytes_down),
            human_seconds(row.seconds),
            UNKNOWN if left is None else human_seconds(left),
        )
        yield aligned(cells, WIDTHS)


def _opening(event: Started) -> Iterator[str]:
    rows = sum(bank.num_train for bank in event.banks)
    yield f"{event.name}: {len(event.banks)} banks, {rows} training rows, {event.num_rounds} rounds"
    for note in event.notes:
        yield from textwrap.wrap(note, WIDTH, initial_indent="  ", subsequent_indent="  ", break_long_words=False)
    yield f"run directory: {event.run_dir}\n"


def _headline_of(summary: Mapping[str, Any]) -> str:
    metrics = overall(summary["metrics"], list(summary["banks"].values()))
    name = headline(metrics)
    return f"{METRICS[name].title} {human_metric(metrics[name])}" if name else "not evaluated"
