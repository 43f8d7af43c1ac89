"""What ``fedsim run`` shows: one line per round while it runs, and a closing table.

On a terminal a bar under the lines shows the banks of the current round and the time left. Elsewhere there are only
the lines, and with ``--format json`` they go to stderr, so that stdout holds one line: the summary.

What is shown never matters to the run: a reader that goes away (``fedsim run ... | head``) ends the showing only.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TextIO

from rich import box
from rich.table import Table as RichTable

from fedsim.core.errors import FedsimError, Stopped
from fedsim.core.events import Event, Finished
from fedsim.records.files import to_json
from fedsim.records.grid import grid_table
from fedsim.records.table import Table, closing_table
from fedsim.view.pane import Pane, Silence, Terminal, console
from fedsim.view.story import Story


def show(
    events: Iterable[Event],
    as_json: bool,
    quiet: bool,
    out: TextIO,
    err: TextIO,
    at_stop: Callable[[Callable[[], None]], None] = lambda tell: None,
) -> Finished:
    """Show a run as it goes and return its end: a table on ``out``, or with ``as_json`` one line of strict JSON.

    ``quiet`` leaves out everything before the end. ``at_stop`` is given what to call when the run is told to stop, so
    that the user learns how to go on before the run's processes are ended.
    """
    with _pane(as_json, quiet, out, err) as pane:
        finished = _watch(events, pane, at_stop)
    if as_json:
        Pane(out).line(to_json(finished.summary))
        return finished
    table = grid_table(finished.summary) if "runs" in finished.summary else closing_table(finished.summary)
    if out.isatty():
        console(out).print(*_closing(table), sep="\n")
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


def _watch(events: Iterable[Event], pane: Pane, at_stop: Callable[[Callable[[], None]], None]) -> Finished:
    story, finished = Story(), None
    untold = [story.stopped]

    def tell() -> None:
        if untold:
            pane.line(untold.pop()())

    at_stop(tell)
    try:
        for event in events:
            for line in story.tell(event):
                pane.line(line)
            pane.progress(story)
            if isinstance(event, Finished):
                finished = event
    except (KeyboardInterrupt, Stopped):
        tell()
        raise
    if finished is None:
        raise FedsimError("the run ended without a summary")
    return finished


def _pane(as_json: bool, quiet: bool, out: TextIO, err: TextIO) -> Pane:
    if quiet:
        return Silence(out)
    if as_json:
        return Pane(err)
    return Terminal(out) if out.isatty() else Pane(out)


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
