"""Values from the command line, laid over a document: ``--set privacy.noise_multiplier=1.2``."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from fedsim.core.document import Document
from fedsim.core.errors import Problem, ScenarioError
from fedsim.core.strict_yaml import KeyPath, compose, dotted, parse_path


def override(document: Document, assignments: Sequence[str]) -> Document:
    """The document with ``path=value`` assignments applied in order. ScenarioError with every problem.

    A path is dotted; list entries are chosen by number, ``upload[0].bits`` or ``upload.0.bits``. A value is YAML: a
    number, text, ``[a, b]`` or ``{kind: fedprox, mu: 0.1}``. Sections that are not there are created.
    """
    data, positions = copy.deepcopy(document.data), dict(document.positions)
    problems: list[Problem] = []
    for number, assignment in enumerate(assignments, start=1):
        place = f"--set #{number}"
        try:
            path, value, below = _parse(assignment, place)
            path = assign(data, path, value, place)
        except ScenarioError as error:
            problems.extend(error.problems)
            continue
        for known in [known for known in positions if known[: len(path)] == path]:
            del positions[known]
        positions |= {path[: length + 1]: place for length in range(len(path)) if path[: length + 1] not in positions}
        positions |= {(*path, *rest): place for rest in below}
    if problems:
        raise ScenarioError(problems)
    return Document(data, positions, document.source)


def _parse(assignment: str, place: str) -> tuple[KeyPath, Any, list[KeyPath]]:
    """(path, value, key paths below the value)"""
    text, equals, value = assignment.partition("=")
    path = parse_path(text)
    if not equals or path is None:
        raise ScenarioError([Problem(place, "", f"expected path=value, got {assignment!r}")])
    data, below = compose(value, lambda line, column: place)
    return path, data, list(below)


def assign(data: dict[str, Any], path: KeyPath, value: Any, place: str) -> KeyPath:
    """Set one value in place; the path with numbers where lists are. ScenarioError, at ``place``, where it cannot."""
    entry: Any = data
    walked: list[str | int] = []
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(entry, list):
            part = _index(entry, part, tuple(walked), place)
        elif not isinstance(entry, dict):
            message = f"is {entry!r}, not a mapping; set it as a whole"
            raise ScenarioError([Problem(place, dotted(tuple(walked)), message)])
        else:
            part = str(part)
            if not last and entry.get(part) is None:
                entry[part] = {}
        walked.append(part)
        if last:
            entry[part] = value
        else:
            entry = entry[part]
    return tuple(walked)


def _index(entries: list[Any], part: str | int, path: KeyPath, place: str) -> int:
    index = int(part) if re.fullmatch(r"[0-9]{1,6}", str(part)) else -1
    if not 0 <= index < len(entries):
        message = f"is a list of {len(entries)}; choose an entry by its number from 0 (got {part!r})"
        raise ScenarioError([Problem(place, dotted(path), message)])
    return index
