"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"


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


Steal = Annotated[
    bool, typer.Option("--steal-lock", help="Take a run directory that a process on another machine has locked.")
]
Fallback = Annotated[
    bool, typer.Option("--fallback/--no-fallback", help="Go back one round when the newest is damaged; default: yes.")
]
NewNoise = Annotated[
    bool, typer.Option("--new-noise", help="Go on without the noise key of the run; an unfinished round pays again.")
]
