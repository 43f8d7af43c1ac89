"""Strict YAML 1.2: plain data with the place of every key.

Text is read from the parser's events, before any tag is resolved, so that everything surprising about YAML can be
refused: duplicate keys, anchors, aliases, merge keys, tags, several documents. Scalars follow the core schema of YAML
1.2.2 (section 10.3.2): ``1e-5`` is a number, ``no`` is text. Keys are text, as they are written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    StreamEndEvent,
    StreamStartEvent,
)

from fedsim.core.errors import Problem, ScenarioError

KeyPath = tuple[str | int, ...]
Place = Callable[[int, int], str]  # line and column, from 1 -> a position as messages show it

MAX_DEPTH = 20  # mappings and lists inside one another
MAX_DIGITS = 400  # of a number
MAX_PROBLEMS = 50  # then reading stops
MAX_VALUES = 20_000  # about a second of reading
SECURITY = 8  # exit code

_CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BEYOND_UNICODE = re.compile(r"\\U(?!000|0010)[0-9a-fA-F]{8}")
_UNPRINTABLE = re.compile("[\0\ud800-\udfff]")  # can be written as an escape only

_NULL = ("", "~", "null", "Null", "NULL")
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_STEP = re.compile(r"\.?([^.\[\]=]+)|\[([0-9]{1,6})\]")  # of a key path
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

# What the parser says, and what we say. Second: whether the place is where the construct began, not where it failed.
_PLAIN_WORDS = (
    (r"found character '\\t'", False, "a tab cannot stand here; indent with spaces"),
    (r"found character '(.)' that cannot start", False, r"a value cannot start with \1; quote it"),
    (r"mapping values are not allowed", False, "unexpected ':'; quote the text, or check the indentation"),
    (r"(expected ',' or '[]}]').*", False, r"\1; a bracket opened on line {line} is not closed"),
    (r"expected <block end>", False, "does not fit what began on line {line}; check indentation, quotes and brackets"),
    (r"expected '<document start>'", False, "does not fit what stands above; check indentation, quotes and brackets"),
    (r"expected chomping", False, "text after '|' or '>' begins on the next line"),
    (r"could not find expected ':'", True, "expected ':' after this"),
    (r"found unexpected end of stream", True, "this quote is never closed"),
    (r"expected the node content, but found '<stream end>'", False, "expected a value, found the end of the file"),
    (r"expected the node content, but found '(.*)'", False, r"expected a value, found '\1'"),
    (r"found unknown escape character '(.)'", False, r"unknown escape '\\\1' in double quotes; use single quotes"),
)


def dotted(path: KeyPath) -> str:
    """("upload", 0, "bits") as users write it: ``upload[0].bits``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    return text if text.isprintable() else ascii(text)


def parse_path(text: str) -> KeyPath | None:
    """The inverse of ``dotted``, which takes ``upload.0.bits`` as well; None for what is no key path."""
    text = text.strip()
    steps = list(_STEP.finditer(text))
    if not steps or "".join(step[0] for step in steps) != text or text[0] in ".[":
        return None
    return tuple(step[1] if step[1] is not None else int(step[2]) for step in steps)


def compose(text: str, place: Place) -> tuple[Any, dict[KeyPath, str]]:
    """(data, positions) of one YAML value. ScenarioError with every problem."""
    _refuse_control_characters(text, place)
    reader = _Composer(YAML(typ="safe", pure=True).parse(text), place)
    try:
        data = reader.document()
    except MarkedYAMLError as error:
        reader.problems.append(_syntax_problem(error, place))
        data = None
    if reader.problems:
        raise ScenarioError(reader.problems)
    return data, reader.positions


def _refuse_control_characters(text: str, place: Place) -> None:
    found = _CONTROL.search(text) or _BEYOND_UNICODE.search(text)
    if found:
        line = text.count("\n", 0, found.start()) + 1
        column = found.start() - text.rfind("\n", 0, found.start())
        what = f"character U+{ord(found[0]):04X}" if len(found[0]) == 1 else f"escape {found[0]}"
        raise ScenarioError([Problem(place(line, column), "", f"{what} is not allowed")])


def _syntax_problem(error: MarkedYAMLError, place: Place) -> Problem:
    began = error.context_mark or error.problem_mark
    mark, words = error.problem_mark or began, str(error.problem or error)
    for pattern, at_begin, replacement in _PLAIN_WORDS:
        match = re.search(pattern, words)
        if match:
            words = match.expand(replacement).replace("{line}", str(began.line + 1 if began else 1))
            mark = began if at_begin else mark
            break
    return Problem(place(mark.line + 1, mark.column + 1) if mark else place(1, 1), "", words)


@dataclass
class _Composer:
    """Builds data from events and collects what is wrong on the way."""

    events: Iterator[Any]
    place: Place
    positions: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def document(self) -> Any:
        data = None
        for event in self.events:
            if isinstance(event, DocumentStartEvent):
                if self.positions:
                    self._add(event, (), f"one document per file (second starts at line {event.start_mark.line + 1})")
                    break
                if event.tags or (event.version or (1, 2)) != (1, 2):
                    self._add(event, (), "fedsim reads YAML 1.2; remove the directives (%) above this line")
            elif not isinstance(event, StreamStartEvent | DocumentEndEvent | StreamEndEvent):
                self.positions[()] = self._at(event)
                data = self.value(event, ())
        return data

    def value(self, event: Any, path: KeyPath) -> Any:
        """The data that begins with ``event``, the rest of its events consumed."""
        if isinstance(event, AliasEvent):
            self._add(event, path, "aliases are not allowed; write the value out", SECURITY)
            return None
        if len(self.positions) > MAX_VALUES:
            self._stop(event, path[:3], f"more than {MAX_VALUES} values")
        if event.anchor:
            self._add(event, path, "anchors are not allowed; write the value out where it is used", SECURITY)
        if event.tag:
            self._add(event, path, f"tags are not allowed (got {str(event.tag)[:80]})", SECURITY)
        if isinstance(event, ScalarEvent):
            return self._scalar(event, path)
        if len(path) >= MAX_DEPTH:
            self._stop(event, path[:3], f"nested deeper than {MAX_DEPTH} levels")
        return self._mapping(path) if isinstance(event, MappingStartEvent) else self._list(path)

    def _list(self, path: KeyPath) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), SequenceEndEvent):
            item = (*path, len(items))
            self.positions[item] = self._at(event)
            items.append(self.value(event, item))
        return items

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(self.events), MappingEndEvent):
            key, line = self._key(event, path), event.start_mark.line + 1
            if key in data:
                self._add(event, path, f"{key!r} given twice (lines {lines[key]} and {line})")
            lines[key] = line
            self.positions[*path, key] = self._at(event)
            data[key] = self.value(next(self.events), (*path, key))
        return data

    def _key(self, event: Any, path: KeyPath) -> str:
        if not isinstance(event, ScalarEvent):
            self._stop(event, path, "a key must be plain text")
        if event.anchor or event.tag:
            self._add(event, path, "anchors and tags are not allowed", SECURITY)
        if event.style is None and event.value in ("<<", ""):
            merge = event.value == "<<"
            self._add(
                event,
                path,
                "merge keys (<<) are not allowed; write the values out" if merge else "a key is missing before ':'",
                SECURITY if merge else 2,
            )
        return self._characters(event, path)

    def _scalar(self, event: ScalarEvent, path: KeyPath) -> str | int | float | bool | None:
        text = self._characters(event, path)
        if event.style is not None:
            return text
        if len(text) > MAX_DIGITS and (_INT.fullmatch(text) or _FLOAT.fullmatch(text) or _OCTAL_OR_HEX.fullmatch(text)):
            self._add(event, path, f"a number of {len(text)} characters is too long")
            return None
        if re.fullmatch(r"[-+]?0[0-9]+", text):
            number = text.lstrip("+-0") or "0"
            self._add(event, path, f"{text} is octal in YAML 1.1 and decimal in 1.2; write {number}, or quote it")
        return resolve(text)

    def _characters(self, event: ScalarEvent, path: KeyPath) -> str:
        text = str(event.value)
        if found := _UNPRINTABLE.search(text):
            self._add(event, path, f"character U+{ord(found[0]):04X} is not allowed")
        return text

    def _at(self, event: Any) -> str:
        return self.place(event.start_mark.line + 1, event.start_mark.column + 1)

    def _stop(self, event: Any, path: KeyPath, message: str) -> NoReturn:
        self._add(event, path, message)
        raise ScenarioError(self.problems)

    def _add(self, event: Any, path: KeyPath, message: str, exit_code: int = 2) -> None:
        self.problems.append(Problem(self._at(event), dotted(path), message, exit_code))
        if len(self.problems) == MAX_PROBLEMS:
            raise ScenarioError(self.problems)


def resolve(text: str) -> str | int | float | bool | None:
    """A plain scalar by the core schema."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL_OR_HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return float(text.replace(".", "")) if _SPECIAL.fullmatch(text) else text
