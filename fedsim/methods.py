"""The comparison sheet: what every registered method trains, sends and keeps, from the ``sheet`` beside its code."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Literal, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedsim.strategies import STRATEGIES, Sheet

Form = Literal["text", "json", "markdown"]
WIDTH = 100  # of the text, in characters, where no terminal says otherwise
COLUMNS = {  # heading -> width
    "method": 10,
    "trains": 12,
    "sent up": 13,
    "sent down": 19,
    "exact": 12,
    "kept": 16,
    "ranks": 5,
    "DP": 3,
}
NOTES = """\
exact: does the server's update equal the mean of the banks' products B A? Means of A and of B
miss a covariance. kept: from round to round. ranks: mixed where lora.bank_ranks may differ.
DP: may banks train with it? Titles and sources are in --format markdown and --format json."""


def show(form: Form, out: TextIO) -> None:
    """Write the sheets of all methods to ``out``."""
    sheets = {kind: method.sheet for kind, method in STRATEGIES.items()}
    if form == "json":
        print(json.dumps([{"kind": kind, **asdict(sheet)} for kind, sheet in sheets.items()], indent=2), file=out)
    elif form == "markdown":
        print(markdown(sheets), file=out)
    else:
        console = Console(file=out, width=None if out.isatty() else WIDTH)
        console.print(table(sheets), NOTES, sep="\n", highlight=False, markup=False)


def cells(kind: str, sheet: Sheet) -> tuple[str, ...]:
    """One row, in the order of ``COLUMNS``."""
    ranks = "mixed" if sheet.mixed_ranks else "one"
    return kind, sheet.trains, sheet.up, sheet.down, sheet.exact, sheet.state, ranks, sheet.dp


def table(sheets: dict[str, Sheet]) -> Table:
    """For a terminal. It fits ``WIDTH`` characters and wraps inside its cells."""
    drawn = Table(box=box.SIMPLE_HEAD, show_lines=True, show_edge=False, pad_edge=False, padding=0)
    for heading, width in COLUMNS.items():
        drawn.add_column(heading, width=width)
    for kind, sheet in sheets.items():
        name, *others, dp = cells(kind, sheet)
        drawn.add_row(
            Text(f"{name}\n").append(sheet.source.partition(",")[0], "dim"), *others, dp if dp == "yes" else "no"
        )
    return drawn


def markdown(sheets: dict[str, Sheet]) -> str:
    """For documents: one line per method."""
    rows = [("title", *COLUMNS, "source"), ("---",) * (len(COLUMNS) + 2)]
    rows += [(sheet.title, *cells(kind, sheet), sheet.source) for kind, sheet in sheets.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
