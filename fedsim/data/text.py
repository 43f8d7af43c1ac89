"""Prompt templates: "term {term_months} months, amount {gross_approved:,.0f}".

A template is literal text and columns in braces, each with an optional format spec of Python's format language. What
stands in the braces is a column name and nothing else: no attributes, no indexing, no expressions, so dots, spaces and
brackets in column names are fine and a scenario file cannot reach into objects. ``{{`` and ``}}`` are braces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from string import Formatter
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.core.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Piece:
    """Literal text, and the column that follows it (None for text alone) with its format spec."""

    literal: str
    column: str | None = None
    spec: str = ""


@dataclass(frozen=True, slots=True)
class Template:
    pieces: tuple[Piece, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """ValueError with the reason when braces do not match or hold anything but ``column`` or ``column:spec``."""
        try:
            parsed = list(Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"template: {error}; write {{{{ or }}}} for a brace that is text") from error
        pieces = []
        for literal, column, spec, conversion in parsed:
            if column is not None and not column.strip():
                raise ValueError("template: empty braces {}; write a column name in them")
            if conversion:
                raise ValueError(f"template: {{{column}!{conversion}}}: drop the conversion !{conversion}")
            if spec and "{" in spec:
                raise ValueError(f"template: {{{column}:{spec}}}: a format spec cannot hold braces")
            pieces.append(Piece(literal, column, spec or ""))
        if not any(piece.column for piece in pieces):
            raise ValueError(f"template {text!r} names no column; write columns in braces: 'amount {{amount}}'")
        return cls(tuple(pieces))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it needs, in order of appearance, each once."""
        return tuple(dict.fromkeys(piece.column for piece in self.pieces if piece.column is not None))

    def render(self, frame: pd.DataFrame, missing: str, place: Callable[[int], str]) -> list[str]:
        """One prompt per row, ``missing`` where a value is missing or blank.

        DataError, with ``place(row)``, when a value does not fit its format spec or when a row has no value at all.
        """
        absent = {column: is_missing(frame[column]) for column in self.columns}
        empty = np.flatnonzero(np.logical_and.reduce(list(absent.values())))
        if len(empty):
            names = ", ".join(repr(column) for column in self.columns)
            more = f" (and in {len(empty) - 1} more rows)" if len(empty) > 1 else ""
            raise DataError(f"{place(int(empty[0]))}: no text: {names} empty{more}")
        values = {column: python_values(frame[column]) for column in self.columns}
        parts: list[list[str]] = []
        for piece in self.pieces:
            parts.append([piece.literal] * len(frame))
            if piece.column is not None:
                parts.append(_formatted(piece, values[piece.column], absent[piece.column], missing, place))
        return ["".join(row) for row in zip(*parts, strict=True)]


def _formatted(
    piece: Piece, values: list[Any], absent: np.ndarray, missing: str, place: Callable[[int], str]
) -> list[str]:
    formatted: list[str] = []
    for row, (value, gone) in enumerate(zip(values, absent.tolist(), strict=True)):
        try:
            formatted.append(missing if gone else format(value, piece.spec))
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{place(row)}: column {piece.column!r}: {value!r} does not fit the format ':{piece.spec}' ({error})"
            ) from error
    return formatted


def is_missing(series: pd.Series[Any]) -> np.ndarray:
    """(n,) bool: nothing there, or blank text."""
    gone = np.asarray(series.isna(), dtype=bool)
    if series.dtype.kind in "biufcmM":
        return gone
    blank = (isinstance(value, str) and not value.strip() for value in series)
    return np.asarray(gone | np.fromiter(blank, dtype=bool, count=len(series)))


def python_values(series: pd.Series[Any]) -> list[Any]:
    """Plain Python values; a float column of whole numbers (integers, one of them missing) as integers again."""
    values = series.tolist()
    if series.dtype.kind == "f" and all(value != value or value.is_integer() for value in values):
        return [value if value != value else int(value) for value in values]
    return values
