"""The directory of a grid: one run directory per combination, and ``grid.json``, which says what became of each.

    {"name", "run_dir", "status": "completed" | "running" | "failed",
     "runs": [{"name", "settings": {key: value}, "status", "run_dir", "metrics": {"auc", ...}, "epsilon", "bytes_up",
               "bytes_down"} or {"name", "settings", "status": "failed", "error", "exit_code"}
              or {"name", "settings", "status": "running"}]}  another process is at it

Other statuses of a run are its summary's, as all that stands behind. ``metrics`` are the global model's on everyone's
test rows, or the mean over the banks' own models where each has one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.core.errors import CheckpointError, FedsimError
from fedsim.core.metrics import METRICS, headline
from fedsim.records.files import read_json, to_json, write_atomically
from fedsim.records.table import Table, overall
from fedsim.records.text import UNKNOWN, human_bytes, human_epsilon, human_metric

ENDED = ("completed", "budget_exhausted")
UNENDED = ("failed", "running")  # the worst first


class GridRecord:
    """Writes one grid's directory. Every method raises CheckpointError when the disk refuses."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    def write(self, runs: Sequence[Mapping[str, object]]) -> dict[str, object]:
        """Replace ``grid.json``; its content."""
        found = {run["status"] for run in runs}
        status = next((status for status in UNENDED if status in found), "completed")
        content: dict[str, object] = {
            "name": self.name,
            "run_dir": str(self.folder),
            "status": status,
            "runs": list(runs),
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"cannot make folder {self.folder}: {error.strerror}; choose another") from error
        write_atomically(self.folder / "grid.json", to_json(content, indent=2) + "\n")
        return content


def ended_summary(folder: Path) -> dict[str, Any] | None:
    """The summary of a run that came to its end; None for anything else."""
    try:
        summary: dict[str, Any] = read_json(folder / "summary.json")
    except CheckpointError:
        return None
    return summary if summary.get("status") in ENDED else None


def entry(name: str, settings: Mapping[str, str], summary: Mapping[str, Any]) -> dict[str, object]:
    """The line of ``grid.json`` for a run that has ended."""
    values = {key: summary[key] for key in ("status", "run_dir", "epsilon", "bytes_up", "bytes_down")}
    metrics = overall(summary["metrics"], list(summary["banks"].values()))
    return {"name": name, "settings": dict(settings), **values, "metrics": dict(metrics)}


def running_entry(name: str, settings: Mapping[str, str]) -> dict[str, object]:
    """The line of ``grid.json`` for a run that another process is at."""
    return {"name": name, "settings": dict(settings), "status": "running"}


def failed_entry(name: str, settings: Mapping[str, str], error: FedsimError) -> dict[str, object]:
    """The line of ``grid.json`` for a run that could not be done."""
    told = {"status": "failed", "error": str(error), "exit_code": error.exit_code}
    return {"name": name, "settings": dict(settings), **told}


def grid_table(grid: Mapping[str, Any]) -> Table:
    """One line per run: its headline metric, the worst bank's epsilon and bytes; what failed is said underneath."""
    metric = headline(name for run in grid["runs"] for name in run.get("metrics", ()))
    rows = tuple(_cells(run, metric or "") for run in grid["runs"])
    failed = (f"{run['name']}: {run['error']}" for run in grid["runs"] if run["status"] == "failed")
    header = ("run", "status", METRICS[metric].title if metric else "", "epsilon", "up", "down")
    return Table(header, (rows,), (*failed, f"grid directory: {grid['run_dir']}"))


def _cells(run: Mapping[str, Any], metric: str) -> tuple[str, ...]:
    """A run's name is not cut: its end tells it from others."""
    told = (run["name"], run["status"].replace("_", " "))
    if run["status"] in UNENDED:
        return (*told, *[UNKNOWN] * 4)
    up, down = human_bytes(run["bytes_up"]), human_bytes(run["bytes_down"])
    return (*told, human_metric(run["metrics"].get(metric)), human_epsilon(run["epsilon"]), up, down)
