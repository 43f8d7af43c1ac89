"""fedsim: federated LoRA fine-tuning of language models across banks, simulated on Ray.

    run = fedsim.run("scenarios/quickstart.yaml")
    run.metrics          # the global model on everyone's test rows
    run.banks            # a pandas table: one row per bank and round

Names are imported when they are used, so that ``import fedsim`` costs nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsim.build.load import load_scenario
    from fedsim.codecs import Codec
    from fedsim.core.adapter import AdapterState
    from fedsim.data import Partitioner
    from fedsim.privacy import Mechanism
    from fedsim.records.compare import Comparison
    from fedsim.records.run import Run
    from fedsim.strategies import LocalRule, Strategy

__version__ = "0.1.0"

_HOMES = {
    "AdapterState": "fedsim.core.adapter",
    "Codec": "fedsim.codecs",
    "LocalRule": "fedsim.strategies",
    "Mechanism": "fedsim.privacy",
    "Partitioner": "fedsim.data",
    "Run": "fedsim.records.run",
    "Strategy": "fedsim.strategies",
    "load_scenario": "fedsim.build.load",
}

__all__ = [
    "AdapterState",
    "Codec",
    "LocalRule",
    "Mechanism",
    "Partitioner",
    "Run",
    "Strategy",
    "compare",
    "load_scenario",
    "run",
    "run_grid",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fedsim' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def run(path: str | Path, overrides: Iterable[str] = (), out: str | Path | None = None, inline: bool = False) -> Run:
    """Run a scenario file and return its results; what ``fedsim run`` does, without showing anything.

    ``overrides`` are ``key=value`` as after ``--set``; ``out`` is the run directory (default: a new one in
    results/runs); ``inline`` trains in this process without Ray. Raises the errors of ``fedsim.core.errors``: a file
    with ``vary`` is for ``run_grid``.
    """
    from fedsim.build.load import load_one
    from fedsim.build.run import run_scenario
    from fedsim.core.events import Finished
    from fedsim.records.run import Run

    one, folder = load_one(path, tuple(overrides)), None if out is None else Path(out)
    with one.document.placing(), closing(run_scenario(one.scenario, folder, inline)) as events:
        finished = next(event for event in events if isinstance(event, Finished))
    return Run(str(finished.summary["run_dir"]))


def run_grid(
    path: str | Path, overrides: Iterable[str] = (), out: str | Path | None = None, inline: bool = False
) -> dict[str, Run]:
    """Run every combination of a file's ``vary`` and return the results by name; what ``fedsim run`` does with one.

    Runs that have ended before are not run again, and those that fail are not in the results.
    """
    from fedsim.build.grid import run_grid as events_of
    from fedsim.build.load import load_grid
    from fedsim.core.events import RunDone
    from fedsim.records.run import Run

    events = events_of(load_grid(path, tuple(overrides)), None if out is None else Path(out), inline)
    return {event.name: Run(str(event.summary["run_dir"])) for event in events if isinstance(event, RunDone)}


def compare(
    folders: str | Path | Iterable[str | Path], metric: str | None = None, against: str | None = None
) -> Comparison:
    """Compare ended runs, as ``fedsim compare`` does: ``groups`` and ``banks`` of the answer are pandas tables.

    ``folders`` are run directories or hold some; ``against`` is a setting like "strategy=fedavg" to which every group
    is also held, seed by seed. CheckpointError when there is nothing to compare.
    """
    from fedsim.records.collect import collect
    from fedsim.records.compare import compare as compared
    from fedsim.records.compare import setting

    paths = [folders] if isinstance(folders, str | Path) else list(folders)
    return compared(collect([Path(path) for path in paths])[0], metric, setting(against))
