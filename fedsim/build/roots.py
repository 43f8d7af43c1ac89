"""Declared data roots: a scenario from somebody else reads nothing outside them, whatever its paths and links say."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedsim.build.load import GridRun
from fedsim.core.errors import Problem, ScenarioError
from fedsim.core.scenario import PATH_KNOBS
from fedsim.core.strict_yaml import SECURITY, KeyPath


def require_inside(runs: Sequence[GridRun], roots: Sequence[Path]) -> None:
    """ScenarioError (exit code 8) for every file or folder of these scenarios that does not lie in one of the roots.

    Links are followed: what counts is where the file is. Without roots nothing is refused.
    """
    if found := dict.fromkeys(problems(runs, roots)):
        raise ScenarioError(found)


def problems(runs: Sequence[GridRun], roots: Sequence[Path]) -> Iterator[Problem]:
    """One for each file or folder outside; of several runs perhaps the same one again."""
    real = [os.path.realpath(root) for root in roots]
    for run in runs if real else ():
        yield from _outside(run, real)


def _outside(run: GridRun, roots: Sequence[str]) -> Iterator[Problem]:
    for place, path in _paths(run):
        for file in _files(path):
            found = os.path.realpath(file)
            if not any(os.path.commonpath([root, found]) == root for root in roots):
                message = f"{file} resolves to {found}, outside the data roots ({', '.join(roots)})"
                yield run.document.problem(place, message, SECURITY)
                break


def _paths(run: GridRun) -> Iterator[tuple[KeyPath, str]]:
    for entry, knob in (*PATH_KNOBS, ("privacy", "noise_key")):
        value: Any = getattr(run.scenario, entry).knobs.get(knob)
        if isinstance(value, str) and (knob != "id" or os.path.isabs(value)):
            yield (entry, knob), os.path.abspath(os.path.expanduser(value))


def _files(path: str) -> Iterator[str]:
    """A path, what its pattern matches, and everything in it where it is a folder."""
    yield path
    for found in glob.glob(path) if glob.has_magic(path) else [path]:
        yield found
        for folder, _, names in os.walk(found):
            yield from (os.path.join(folder, name) for name in names)
