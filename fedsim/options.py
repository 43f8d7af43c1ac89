"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"


class Sheets(StrEnum):
    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


class Rendering(StrEnum):
    TEXT = "text"
    CSV = "csv"
    JSON = "json"
    MARKDOWN = "markdown"
    LATEX = "latex"


File = Annotated[Path, typer.Argument(help="Scenario file.", metavar="FILE")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the scenario; repeatable.")
]
EndFormat = Annotated[
    Format, typer.Option("--format", help="json: the summary as the only line of stdout, progress on stderr.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show the end only.")]
InProcess = Annotated[bool, typer.Option("--inline", help="Train in this process, without Ray.")]


class Resuming(StrEnum):
    NEVER = "never"
    AUTO = "auto"


ResumeOption = Annotated[
    Resuming, typer.Option("--resume", help="auto: go on with the run that DIR holds, if it holds one.")
]
Steal = Annotated[
    bool, typer.Option("--steal-lock", help="Take a run directory that a process on another machine has locked.")
]
Fallback = Annotated[
    bool, typer.Option("--fallback/--no-fallback", help="Go back one round when the newest is damaged; default: yes.")
]
NewNoise = Annotated[
    bool, typer.Option("--new-noise", help="Go on without the noise key of the run; an unfinished round pays again.")
]
LogFile = Annotated[
    str | None, typer.Option("--log", metavar="FILE", help="Also write every event as a line of JSON; - is stderr.")
]
CheckNodes = Annotated[
    bool, typer.Option("--check-nodes", help="Start only if every node has the data, the model and the directory.")
]
DataRoots = Annotated[
    list[Path] | None, typer.Option("--data-root", metavar="DIR", help="Read nothing outside; repeatable.")
]
RunsFolder = Annotated[
    Path | None,
    typer.Option("--runs", metavar="DIR", help="Where killed runs may lie. Default: results/runs."),
]
Embeddings = Annotated[
    bool, typer.Option("--embeddings", help="Also how the base model sees the texts: it is loaded for this.")
]
CrossCheck = Annotated[
    bool, typer.Option("--cross-check", help="Also the worst bank's epsilon by a third accountant (PRV, 30 s).")
]
Measure = Annotated[
    bool, typer.Option("--measure", help="Also load the model and time training here: the best train.max_rows (1 min).")
]
Folders = Annotated[list[Path], typer.Argument(help="Run directories, or folders that hold some.", metavar="DIR")]
MetricName = Annotated[str | None, typer.Option(help="The metric. Default: the first that all runs have.")]
Address = Annotated[str | None, typer.Option(metavar="URL", help="The cluster, e.g. http://127.0.0.1:8265.")]


class Workloads(StrEnum):
    W1 = "W1"
    W2 = "W2"
    W3 = "W3"
    W3N = "W3n"
    W4 = "W4"


Workload = Annotated[
    Workloads,
    typer.Argument(help="W1, W2: 64 small banks with and without DP; W3, W3n: 8 wider ones; W4: 20 of 1,000."),
]
