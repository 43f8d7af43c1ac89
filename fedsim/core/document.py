"""A scenario file as plain data in which every key knows where it stands."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fedsim.core.errors import FedsimError, Problem, ScenarioError
from fedsim.core.strict_yaml import KeyPath, compose, dotted, parse_path

MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data (str, int, float, bool, None, list, dict with text keys) and where each key path stands.

    A position is "file:line:column" of the key or list item, or "--set #2" for a value from the command line.
    """

    data: dict[str, Any]
    positions: Mapping[KeyPath, str]
    source: str

    def where(self, path: KeyPath) -> str:
        """The position of a key path, or of the nearest entry around it."""
        while path and path not in self.positions:
            path = path[:-1]
        return self.positions.get(path, f"{self.source}:1:1")

    def problem(self, path: KeyPath, message: str, exit_code: int = 2) -> Problem:
        return Problem(self.where(path), dotted(path), message, exit_code)

    @contextmanager
    def placing(self) -> Iterator[None]:
        """Errors raised inside that name a key of this document get its place."""
        try:
            yield
        except ScenarioError as error:
            raise type(error)(self._placed(problem) for problem in error.problems) from error
        except FedsimError as error:
            if not error.key:
                raise
            raise type(error)(str(self._placed(Problem("", error.key, str(error))))) from error

    def _placed(self, problem: Problem) -> Problem:
        return problem if problem.where else replace(problem, where=self.where(parse_path(problem.key) or ()))


def read(path: Path) -> Document:
    """The document in a file. ScenarioError with every problem of its syntax."""
    return parse(_text(path), str(path))


def parse(text: str, source: str) -> Document:
    """The document in a text; ``source`` names it in messages. ScenarioError with every problem of its syntax."""
    data, positions = compose(text, lambda line, column: f"{source}:{line}:{column}")
    if isinstance(data, dict):
        return Document(data, positions, source)
    got = {type(None): "nothing", list: "a list"}.get(type(data), f"{data!r}")
    expected = "expected a mapping with 'num_rounds', 'data', 'model', ...;"
    raise ScenarioError([Problem(positions.get((), f"{source}:1:1"), "", f"{expected} got {got}")])


def _text(path: Path) -> str:
    def problem(message: str) -> ScenarioError:
        return ScenarioError([Problem(str(path), "", message)])

    if os.path.isdir(path):
        raise problem("is a folder; name a scenario file in it")
    if not os.path.lexists(path):
        close = _close_sibling(path)
        raise problem(f"no such file; did you mean {close}?" if close else "no such file")
    if not os.path.isfile(path):
        raise problem("is not a regular file")
    try:
        with open(path, "rb") as file:
            body = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise problem(f"cannot be read: {(error.strerror or str(error)).lower()}") from error
    if len(body) > MAX_BYTES:
        raise problem(f"is larger than {MAX_BYTES >> 20} MiB; a scenario names its data, it does not hold them")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        where = f"{path}:{line}:1"
        message = f"is not UTF-8 (byte 0x{body[error.start]:02x}); save it as UTF-8"
        raise ScenarioError([Problem(where, "", message)]) from error


def _close_sibling(path: Path) -> Path | None:
    """A file of the same kind in the same folder with a similar name."""
    try:
        names = {
            entry.stem: entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml", ".json")
        }
    except OSError:
        return None
    close = get_close_matches(path.stem, names, n=1)
    return path.with_name(names[close[0]]) if close else None
