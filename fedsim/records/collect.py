"""Ended runs below some folders, and what tells them apart: the settings in which their scenarios differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.core.document import read
from fedsim.core.errors import CheckpointError
from fedsim.core.grid import short_names
from fedsim.records.files import read_json
from fedsim.records.grid import ENDED
from fedsim.records.run import Run

SECTIONS = ("lora", "train")  # compared key by key; every other entry is compared as a whole
IGNORED = ("name", "seed", "resources", "baselines", "evaluate")  # never reach what is compared

NEEDED = ("name", "seed", "num_rounds", "strategy", "upload", "download")  # of a scenario that is told about


@dataclass(frozen=True)
class Found:
    """An ended run among others. ``settings`` tell it from runs that differ in more than the seed."""

    run: Run
    scenario: Mapping[str, Any]
    settings: Mapping[str, str]  # dotted key -> short text; the same keys in all runs found together

    @property
    def seed(self) -> int:
        seed: int = self.scenario["seed"]
        return seed

    @property
    def label(self) -> str:
        """The settings as one text; the scenario's name where there are none."""
        return ",".join(f"{key}={value}" for key, value in self.settings.items()) or str(self.scenario["name"])


def collect(folders: Sequence[Path]) -> tuple[list[Found], list[str]]:
    """(ended runs in order of path, notes on what failed or is left out). CheckpointError when there is none.

    Of several runs with the same settings and seed the first counts: a repetition is no further evidence.
    """
    runs, notes = [], []
    for path in dict.fromkeys(path for folder in folders for path in _summaries(folder)):
        run = Run(path.parent)
        if run.summary.get("status") in ENDED:
            runs.append(run)
        else:
            notes.append(f"left out: {path.parent} ({str(run.summary.get('status')).replace('_', ' ')})")
    for path in (path for folder in folders for path in sorted(folder.rglob("grid.json"))):
        failed = (run for run in read_json(path)["runs"] if run["status"] == "failed")
        notes += [f"failed: {run['name']}: {run['error']}" for run in failed]
    scenarios = [_scenario(run.run_dir / "scenario.yaml") for run in runs]
    found: dict[tuple[str, int], Found] = {}
    for run, scenario, settings in zip(runs, scenarios, differences(scenarios), strict=True):
        one = Found(run, scenario, settings)
        first = found.setdefault((one.label, one.seed), one)
        if first is not one:
            notes.append(f"left out: {run.run_dir} (repeats {first.run.run_dir})")
    if not found:
        raise CheckpointError(
            f"no ended run in {', '.join(map(str, folders))}; give folders that fedsim run has written"
        )
    return list(found.values()), notes


def _scenario(path: Path) -> Mapping[str, Any]:
    scenario: Mapping[str, Any] = read(path).data
    for key in NEEDED:
        if key not in scenario:
            raise CheckpointError(f"cannot read {path}: it lacks {key!r}; is it the one that the run wrote?")
    return scenario


def _summaries(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give run directories or a folder that holds some")
    yield from sorted(folder.rglob("summary.json"))


def differences(scenarios: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Of each scenario, the entries that are not the same in all of them, as short texts by dotted key."""
    entries = [dict(_entries(scenario)) for scenario in scenarios]
    keys = dict.fromkeys(key for one in entries for key in one)
    settings: list[dict[str, str]] = [{} for _ in scenarios]
    for key in keys:
        spelled = [json.dumps(one.get(key), sort_keys=True) for one in entries]
        distinct = list(dict.fromkeys(spelled))
        if len(distinct) > 1:
            texts = dict(zip(distinct, short_names([json.loads(text) for text in distinct]), strict=True))
            for one, text in zip(settings, spelled, strict=True):
                one[key] = texts[text]
    return settings


def _entries(scenario: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in scenario.items():
        if key in IGNORED:
            continue
        if key in SECTIONS:
            yield from ((f"{key}.{inner}", entry) for inner, entry in value.items())
        else:
            yield key, value
