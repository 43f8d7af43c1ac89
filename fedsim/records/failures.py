"""``failures.jsonl``: every attempt of a run that failed, with all that is known of it. There once one has."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path

from fedsim.core.events import Failed
from fedsim.records.files import append_lines

FAILURES = "failures.jsonl"


def replay_command(run_dir: str) -> str:
    """Repeats the run in one process, where a debugger or a traceback shows the failing job. It has the same bits."""
    return f"fedsim --debug run {shlex.quote(f'{run_dir}/scenario.yaml')} --inline"


def add_failure(folder: Path, failed: Failed) -> None:
    """Append one attempt. CheckpointError when the disk refuses."""
    append_lines(folder / FAILURES, [asdict(failed) | {"replay": replay_command(str(folder))}])
