"""Reading one column of a file as categories, numbers or times, with the same errors everywhere.

A value has one spelling, ``plain(value)``, wherever it is compared or shown: 1, 1.0 and "1" are "1", True is "true".
pandas turns a column of integers into floats as soon as one value is missing, so types cannot be compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from fedsim.core.errors import DataError, suggest
from fedsim.data.base import Columns


def plain(value: Any) -> str:
    """The one spelling of a value: whole numbers without ".0", truth values as true and false, text stripped."""
    if isinstance(value, str):
        text = value.strip()
        return text.lower() if text.lower() in ("true", "false") else text
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating) and np.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value)


def missing_column(name: str, purpose: str, known: Iterable[str]) -> str:
    """One sentence for a column that is not there."""
    names = [str(column) for column in known]
    return f"no column {name!r} for {purpose}.{suggest(name, names)} Columns: {', '.join(names)}"


def encode(values: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """(names, codes): the distinct values as ``plain`` text, numbers before words and in order; codes (n,) int64.

    The code of a missing or blank value is -1. TypeError when values are lists or objects.
    """
    import pandas as pd

    raw, distinct = pd.factorize(values)
    spelled = [plain(value) for value in distinct]
    names = tuple(sorted({name for name in spelled if name}, key=_numbers_first))
    position = {name: index for index, name in enumerate(names)}
    table = np.array([*(position.get(name, -1) for name in spelled), -1], dtype=np.int64)
    return names, table[raw]  # raw is -1 where missing: the last entry


def _numbers_first(name: str) -> tuple[bool, float, str]:
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name


def column(columns: Columns, name: str) -> np.ndarray:
    """The column, or a DataError that lists the columns."""
    if name not in columns:
        raise DataError(missing_column(name, "the partition", columns))
    return columns[name]


def categories(columns: Columns, name: str, allow_missing: bool = False) -> tuple[tuple[str, ...], np.ndarray]:
    """``encode`` of a column. DataError when values are missing (unless allowed) or are not single values."""
    values = column(columns, name)
    try:
        names, codes = encode(values)
    except TypeError as error:
        raise DataError(f"column {name!r} holds lists or objects; partition by a column of single values") from error
    if not allow_missing:
        _refuse_missing(name, codes < 0)
    return names, codes


def numbers(columns: Columns, name: str) -> np.ndarray:
    """(n,) float64. DataError, with the first offender, when a value is not a finite number."""
    import pandas as pd

    values = column(columns, name)
    found = np.asarray(pd.to_numeric(pd.Series(values), errors="coerce"), dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(found))
    if len(bad):
        raise DataError(f"column {name!r} must be numbers; row {bad[0] + 1} has {values[bad[0]]!r}{_others(bad)}")
    return found


def times(columns: Columns, name: str, format_: str | None) -> np.ndarray:
    """(n,) float64 that sorts by time: numbers (a year) as they are, dates in ISO 8601 or in ``format_`` as seconds."""
    import pandas as pd

    values = column(columns, name)
    if format_ is None and values.dtype.kind in "iuf":
        return numbers(columns, name)
    found = pd.to_datetime(pd.Series(values), format=format_ or "ISO8601", errors="coerce", utc=True)
    bad = np.flatnonzero(found.isna())
    if len(bad):
        expected = f"fit the format {format_!r}" if format_ else "be ISO dates (else set format, e.g. '%m/%d/%Y')"
        raise DataError(f"column {name!r} must {expected}; row {bad[0] + 1} has {values[bad[0]]!r}{_others(bad)}")
    return np.asarray((found - pd.Timestamp(0, tz="UTC")).dt.total_seconds(), dtype=np.float64)


def _refuse_missing(name: str, missing: np.ndarray) -> None:
    bad = np.flatnonzero(missing)
    if len(bad):
        raise DataError(f"column {name!r} has no value in row {bad[0] + 1}{_others(bad)}; partition by another column")


def _others(rows: np.ndarray) -> str:
    return f" (and {len(rows) - 1} more rows)" if len(rows) > 1 else ""
