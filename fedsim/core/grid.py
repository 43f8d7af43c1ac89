"""``vary:`` in a scenario file: several values for a key, and every combination is a run.

    vary:
      partition: [{kind: iid}, {kind: dirichlet, alpha: 0.1}]
      lora.r: [4, 8]                             # any key, dotted as after --set
      paired:                                    # lists of one length, walked together
        train.lr: [1e-3, 5e-4]
        train.batch_size: [16, 32]
      seed: [1, 2, 3]

The first key varies slowest. A combination is an ordinary document in which every varied value still knows where it
stands in the file, so that what is wrong with it is said there.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import prod
from typing import Any

from fedsim.core.document import Document
from fedsim.core.errors import Problem, ScenarioError
from fedsim.core.overrides import assign
from fedsim.core.strict_yaml import KeyPath, dotted, parse_path

MAX_RUNS = 1000
MAX_VALUE, MAX_NAME = 40, 200  # characters of a value in a name, and of a name: a folder's may have 255 bytes


@dataclass(frozen=True, slots=True)
class Combination:
    """One run of a grid. ``settings`` are its varied keys with their values as short texts, in the file's order."""

    settings: Mapping[str, str]  # empty where nothing is varied
    document: Document

    @property
    def name(self) -> str:
        """``partition=dirichlet-0.1,strategy=flasc,seed=1``: fit for a folder."""
        name = ",".join(f"{key}={value}" for key, value in self.settings.items())
        if len(name) <= MAX_NAME:
            return name
        return f"{name[: MAX_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class _Key:
    """A varied key: where its list stands in the document, its values, and how they are called."""

    path: KeyPath
    place: KeyPath
    values: list[Any]

    @property
    def name(self) -> str:
        return dotted(self.path)


def expand(document: Document) -> list[Combination]:
    """Every combination in order; a document without ``vary`` is its own. ScenarioError with every problem."""
    if "vary" not in document.data:
        return [Combination({}, document)]
    axes, problems = _axes(document)
    if count := prod(len(axis[0].values) for axis in axes):
        problems += _too_many(document, count)
    problems += _overlaps(document, [key for axis in axes for key in axis])
    if problems:
        raise ScenarioError(problems)
    names = {key.path: short_names(key.values) for axis in axes for key in axis}
    steps = [[[(key, index) for key in axis] for index in range(len(axis[0].values))] for axis in axes]
    found = []
    for chosen in product(*steps):
        picks = [pick for axis in chosen for pick in axis]
        settings = {key.name: names[key.path][index] for key, index in picks}
        found.append(Combination(settings, _combined(document, picks)))
    return found


def _axes(document: Document) -> tuple[list[list[_Key]], list[Problem]]:
    """Keys that are walked together, in the order of the file; only the sound ones."""
    vary = document.data["vary"]
    problems: list[Problem] = []
    if not isinstance(vary, dict) or not vary:
        return [], [document.problem(("vary",), "expected a mapping from keys to lists of values")]
    axes: list[list[_Key]] = []
    for name, entry in vary.items():
        if name != "paired":
            group = list(_keys(document, {name: entry}, ("vary",), problems))
        elif isinstance(entry, dict) and entry:
            group = list(_keys(document, entry, ("vary", "paired"), problems))
            lengths = {key.name: len(key.values) for key in group}
            if len(set(lengths.values())) > 1:
                told = ", ".join(f"{key} has {length}" for key, length in lengths.items())
                problems.append(document.problem(("vary", "paired"), f"lists must be of one length: {told}"))
        else:
            problems.append(document.problem(("vary", "paired"), "expected a mapping from keys to lists of values"))
            continue
        axes += [group] if group else []
    return axes, problems


def _keys(document: Document, entries: Mapping[str, Any], place: KeyPath, problems: list[Problem]) -> Iterator[_Key]:
    for name, values in entries.items():
        path, here = parse_path(name), (*place, name)
        if path is None or path[0] in ("vary", "name"):
            problems.append(document.problem(here, "is not a key that can be varied; write one like lora.r"))
        elif not isinstance(values, list) or not values:
            problems.append(document.problem(here, "expected a list of values"))
        elif _is_set(document, path):
            remedy = f"change its list: --set 'vary.{name}=[...]'"
            problems.append(document.problem(path, f"is varied by the scenario, so one value has no effect; {remedy}"))
        else:
            spelled = [_canonical(value) for value in values]
            twice = [index for index, text in enumerate(spelled) if text in spelled[:index]]
            if twice and place == ("vary",):  # of a pair, one key may repeat where another does not
                problems.append(document.problem((*here, twice[0]), f"{spelled[twice[0]]} is listed twice"))
            yield _Key(path, here, values)


def _is_set(document: Document, path: KeyPath) -> bool:
    """Whether the command line gives a value at a path or below it."""
    return any(where.startswith("--set") and at[: len(path)] == path for at, where in document.positions.items())


def _overlaps(document: Document, keys: Sequence[_Key]) -> list[Problem]:
    """A key that is varied twice, as a whole or in part, would lose one of its values."""
    return [
        document.problem(b.place, f"overlaps {a.name!r}, which is varied too; write the values into one list")
        for a, b in combinations(keys, 2)
        if a.path[: len(b.path)] == b.path[: len(a.path)]
    ]


def _too_many(document: Document, count: int) -> list[Problem]:
    message = f"makes {count} runs; at most {MAX_RUNS} can be in one file"
    return [document.problem(("vary",), message)] if count > MAX_RUNS else []


def _combined(document: Document, picks: Sequence[tuple[_Key, int]]) -> Document:
    data = {key: copy.deepcopy(value) for key, value in document.data.items() if key != "vary"}
    positions = {path: where for path, where in document.positions.items() if path[:1] != ("vary",)}
    for key, index in picks:
        source = (*key.place, index)
        path = assign(data, key.path, copy.deepcopy(key.values[index]), document.where(source))
        positions = {known: where for known, where in positions.items() if known[: len(path)] != path}
        for length in range(1, len(path)):  # sections that the file does not have
            positions.setdefault(path[:length], document.where(source))
        for known, where in document.positions.items():
            if known[: len(source)] == source:
                positions[(*path, *known[len(source) :])] = where
    return Document(data, positions, document.source)


def short_names(values: Sequence[Any]) -> list[str]:
    """A short text per value, all different. What is equal in every mapping that has it is left out.

    Knobs are named where their values alone tell nothing apart: ``rounds-bank-a-7`` beside ``rounds-bank-b-7``.
    """
    told = [_text(value, _shared(values)) for value in values]
    named = [_text(value, _shared(values), knobs=True) for value in values]
    names = [
        more if told.count(text) > 1 and named.count(more) == 1 else text
        for text, more in zip(told, named, strict=True)
    ]
    return [name if names.count(name) == 1 else f"{name}~{index + 1}" for index, name in enumerate(names)]


def _shared(values: Sequence[Any]) -> set[str]:
    """Knobs with one value in all of several mappings: they tell nothing apart."""
    mappings = [value for value in values if isinstance(value, dict)]
    spelled: dict[str, list[str]] = {}
    for mapping in mappings:
        for knob, value in mapping.items():
            spelled.setdefault(knob, []).append(_canonical(value))
    return {knob for knob, texts in spelled.items() if knob != "kind" and len(texts) > 1 and len(set(texts)) == 1}


def _text(value: Any, left_out: set[str], knobs: bool = False) -> str:
    """A plug-in is its kind and its knobs' values, ``dirichlet-0.1``; an empty list is ``none``."""
    parts: list[str] = []

    def walk(entry: Any) -> None:
        if isinstance(entry, dict):
            for knob in sorted(entry, key=lambda knob: knob != "kind"):
                if knob not in left_out:
                    if knobs and knob != "kind":
                        parts.append(knob)
                    walk(entry[knob])
        elif isinstance(entry, list):
            for inner in entry:
                walk(inner)
        else:
            parts.append(entry if isinstance(entry, str) else json.dumps(entry))

    walk(value)
    text = re.sub(r"[^A-Za-z0-9._+-]+", "_", "-".join(parts)).strip("._-+")
    return text[:MAX_VALUE] or "none"


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
