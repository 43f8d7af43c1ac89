"""``timeline.jsonl``: who trained which bank when, one line per bank and round that returned an update.

    {"round", "bank", "actor", "start", "seconds"}

``actor`` is short for one process, ``start`` is Unix time by its machine's clock. Banks that one actor trained together
share a start and a duration. Nothing of this reaches a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedsim.core.events import BankDone
from fedsim.records.files import append_lines, read_lines

TIMELINE = "timeline.jsonl"


def add_work(folder: Path, done: Sequence[BankDone]) -> None:
    """Append banks of a round. CheckpointError when the disk refuses."""
    lines = [{"round": one.round, "bank": one.bank, **asdict(one.work)} for one in done if one.work is not None]
    if lines:
        append_lines(folder / TIMELINE, lines)


def read_work(folder: Path) -> list[dict[str, Any]]:
    """The lines in order; of a bank and round that a resumed run did twice, the last. Empty without a file."""
    path = folder / TIMELINE
    lines = read_lines(path) if path.exists() else []
    return list({(line["round"], line["bank"]): line for line in lines}.values())
