"""A scenario file, checked whole: every problem with its place, before anything is started.

Three passes. The first validates what fedsim itself reads, the second every plug-in's knobs against the ``Config`` of
its kind (also where the first pass found something elsewhere), the third, if both are clean, the combination. A file
with ``vary`` is examined once per combination of its values; what several combinations have wrong is said once.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fedsim.build.compat import Plan, incompatibilities
from fedsim.build.explain import Unknown, explain
from fedsim.build.families import FAMILIES, Families
from fedsim.build.unknown import unknown_field
from fedsim.core.document import Document, read
from fedsim.core.errors import Problem, ScenarioError
from fedsim.core.grid import Combination, expand
from fedsim.core.names import rewrite
from fedsim.core.overrides import override
from fedsim.core.registry import Config
from fedsim.core.scenario import PATH_KNOBS, Plugin, Scenario
from fedsim.core.strict_yaml import KeyPath

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class GridRun:
    """One scenario of a file, and what tells it from the file's others: varied keys and their values as short texts."""

    name: str  # fit for a folder; empty in a file without ``vary``
    settings: Mapping[str, str]
    scenario: Scenario
    document: Document  # where everything in it stands


def load_scenario(path: str | Path, overrides: Sequence[str] = (), families: Families = FAMILIES) -> Scenario:
    """The scenario in a file, with ``key=value`` overrides applied. ScenarioError with all its problems.

    File names inside ``data`` and ``model`` become absolute: they are relative to the scenario's folder, in an override
    to the working directory.
    """
    return load_one(path, overrides, families).scenario


def load_one(path: str | Path, overrides: Sequence[str] = (), families: Families = FAMILIES) -> GridRun:
    """The same, with where everything stands."""
    runs = load_grid(path, overrides, families)
    if runs[0].name:
        message = f"makes {len(runs)} runs, but one is needed here; leave vary out, or use fedsim.run_grid"
        raise ScenarioError([Problem(str(path), "vary", message)])
    return runs[0]


def load_grid(path: str | Path, overrides: Sequence[str] = (), families: Families = FAMILIES) -> tuple[GridRun, ...]:
    """Every scenario of a file in order: one, or with ``vary`` one per combination. ScenarioError with all problems."""
    runs, problems = _examine(Path(path), overrides, families)
    if problems:
        raise ScenarioError(problems)
    return runs


def check(paths: Iterable[str | Path], families: Families = FAMILIES) -> list[Problem]:
    """Every problem of every file."""
    return [problem for path in paths for problem in _examine(Path(path), (), families)[1]]


def _examine(path: Path, overrides: Sequence[str], families: Families) -> tuple[tuple[GridRun, ...], list[Problem]]:
    try:
        combinations = expand(override(read(path), overrides))
    except ScenarioError as error:
        return (), list(error.problems)
    runs: list[GridRun] = []
    problems: dict[Problem, None] = {}
    for combination in combinations:
        run, found = _validated(combination, path, families)
        problems |= dict.fromkeys(found)
        if run is not None:
            runs.append(run)
    return tuple(runs), sorted(problems, key=_line_and_column)


def _validated(combination: Combination, path: Path, families: Families) -> tuple[GridRun | None, list[Problem]]:
    document, problems = rewrite(combination.document)
    unknown = partial(unknown_field, families)
    data = {"name": _default_name(path), **_with_resolved_paths(document, path.parent)}
    scenario, found = _validate(Scenario, data, document, (), unknown)
    problems += found
    configs: dict[KeyPath, Config] = {}
    for place, kind, knobs in _plugins(document):
        registry = families[str(place[0])]
        try:
            model = registry.config(kind)
        except KeyError as error:
            problems.append(document.problem((*place, "kind"), str(error.args[0])))
            continue
        config, found = _validate(model, knobs, document, place, unknown)
        problems += found
        if config is not None:
            configs[place] = config
    if scenario is None or problems:
        return None, problems
    problems = [document.problem(*finding) for finding in incompatibilities(Plan(scenario, configs, families))]
    return GridRun(combination.name, combination.settings, scenario, document), problems


def _validate(
    model: type[Model], data: dict[str, Any], document: Document, place: KeyPath, unknown: Unknown
) -> tuple[Model | None, list[Problem]]:
    # From JSON, strict: lists are tuples there, but no quoted number is a number and no boolean an integer.
    try:
        return model.model_validate_json(json.dumps(data), strict=True), []
    except ValidationError as error:
        return None, explain(error, document, place, model, unknown)


def _plugins(document: Document) -> Iterator[tuple[KeyPath, str, dict[str, Any]]]:
    """(path, kind, knobs) of every plug-in entry that names its kind, defaults included."""
    for name, field in Scenario.model_fields.items():
        if field.annotation is Plugin:
            default = {"kind": field.default.kind} if isinstance(field.default, Plugin) else None
            entries: Any = {(name,): document.data.get(name, default)}
        elif name in ("upload", "download"):
            listed = document.data.get(name)
            entries = {(name, index): entry for index, entry in enumerate(listed if isinstance(listed, list) else ())}
        else:
            continue
        for path, entry in entries.items():
            if isinstance(entry, dict) and isinstance(entry.get("kind"), str):
                yield path, entry["kind"], {key: value for key, value in entry.items() if key != "kind"}


def _with_resolved_paths(document: Document, folder: Path) -> dict[str, Any]:
    """The data with file names made absolute; an ``id`` only where it is a folder."""
    data = dict(document.data)
    for entry, knob in PATH_KNOBS:
        value = data[entry].get(knob) if isinstance(data.get(entry), dict) else None
        if not isinstance(value, str) or not value:
            continue
        base = Path() if document.where((entry, knob)).startswith("--set") else folder
        path = os.path.abspath(os.path.join(base, os.path.expanduser(value)))
        if knob == "path" or os.path.isdir(path):
            data[entry] = {**data[entry], knob: path}
    return data


def _default_name(path: Path) -> str:
    """The file's name without suffix, in characters that a folder may have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:100] or "scenario"


def _line_and_column(problem: Problem) -> tuple[int, int]:
    place = re.search(r":(\d+):(\d+)$", problem.where)
    return (int(place[1]), int(place[2])) if place else (1 << 30, 0)
