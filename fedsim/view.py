"""What ``fedsim run`` shows: one line per round while it runs, and a closing table.

On a terminal a bar under the lines shows the banks of the current round and the time left. Elsewhere there are only
the lines, and with ``--format json`` they go to stderr, so that stdout holds one line: the summary.

What is shown never matters to the run: a reader that goes away (``fedsim run ... | head``) ends the showing only.
"""

from __future__ import annotations

import os
import shlex
import textwrap
from collections.abc import Generator, Iterable, Iterator, Mapping
from io import TextIOWrapper
from typing import Any, Self, TextIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from fedsim.core.errors import FedsimError, Stopped
from fedsim.core.events import (
    BankDone,
    BaselineDone,
    Event,
    Failed,
    Finished,
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
from fedsim.records.files import to_json
from fedsim.records.grid import grid_table
from fedsim.records.table import WIDTH, Table, aligned, closing_table, overall
from fedsim.records.text import UNKNOWN, human_bytes, human_epsilon, human_metric, human_seconds

FOLLOWS = {
    "retry": "repeating it",
    "alone": "trying its banks one by one",
    "skip": "going on without the bank",
    "abort": "ending the run",
    "clip": "using it at that length",
}
WIDTHS = (9, 5, 6, 8, 7, 7, 7, 7, 7)  # of the columns of a round's line: 79 with the gaps


def show(events: Iterable[Event], as_json: bool, quiet: bool, out: TextIO, err: TextIO) -> Finished:
    """Show a run as it goes and return its end: a table on ``out``, or with ``as_json`` one line of strict JSON.

    ``quiet`` leaves out everything before the end.
    """
    with _pane(as_json, quiet, out, err) as pane:
        finished = _watch(events, pane)
    if as_json:
        Pane(out).line(to_json(finished.summary))
        return finished
    table = grid_table(finished.summary) if "runs" in finished.summary else closing_table(finished.summary)
    if out.isatty():
        _console(out).print(*_closing(table), sep="\n")
    else:
        Pane(out).line(f"\n{table.text()}")
    return finished


def show_lines(lines: Generator[str, None, int], out: TextIO) -> int:
    """Show lines as they come; what the generator returns is returned."""
    pane = Pane(out)
    while True:
        try:
            pane.line(next(lines))
        except StopIteration as end:
            return int(end.value)


def _watch(events: Iterable[Event], pane: Pane) -> Finished:
    story, finished = Story(), None
    try:
        for event in events:
            for line in story.tell(event):
                pane.line(line)
            pane.progress(story)
            if isinstance(event, Finished):
                finished = event
    except (KeyboardInterrupt, Stopped):
        pane.line(story.stopped())
        raise
    if finished is None:
        raise FedsimError("the run ended without a summary")
    return finished


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


class Pane:
    """Where lines go: a stream that may go away."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.gone = stream, False
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name that the terminal cannot write is no reason to stop

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def line(self, text: str) -> None:
        if self.gone:
            return
        try:
            print(text, file=self.stream, flush=True)
        except OSError:  # closed pipe, full disk: training goes on; what the stream still holds goes nowhere
            self.gone = True
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())

    def progress(self, story: Story) -> None:
        """Nothing moves here."""


class Silence(Pane):
    """Where nothing is shown."""

    def line(self, text: str) -> None:
        pass


class Terminal(Pane):
    """Lines above a bar that moves with every bank."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[banks]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=_console(stream),
            transient=True,
        )
        self.task = self.bar.add_task("starting", total=None, banks="", left="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def line(self, text: str) -> None:
        self.bar.console.print(text, soft_wrap=True)

    def progress(self, story: Story) -> None:
        over, left = story.round >= story.num_rounds, story.seconds_left
        self.bar.update(
            self.task,
            description="finishing" if over else f"round {story.round + 1}/{story.num_rounds}",
            total=None if over else story.num_rounds,
            completed=story.rounds_done,
            banks=f"{story.banks_done}/{story.banks_total} banks" if story.banks_total else "",
            left=f"left {human_seconds(left)}" if left and not over else "",
            refresh=True,
        )


def _pane(as_json: bool, quiet: bool, out: TextIO, err: TextIO) -> Pane:
    if quiet:
        return Silence(out)
    if as_json:
        return Pane(err)
    return Terminal(out) if out.isatty() else Pane(out)


def _console(stream: TextIO) -> Console:
    """A console that takes text as it is: a bank may be called ``[bold]``."""
    return Console(file=stream, markup=False, emoji=False, highlight=False)


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


def _closing(table: Table) -> tuple[RichTable | str, ...]:
    """The same cells, headings and sections as ``Table.text``, drawn for a terminal."""
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for number, title in enumerate(table.header):
        drawn.add_column(title, justify="right" if number else "left", no_wrap=True)
    for section in table.sections:
        for cells in section:
            drawn.add_row(*cells)
        drawn.add_section()
    return ("", drawn, "", *table.notes)
