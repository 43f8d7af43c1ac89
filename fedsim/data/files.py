"""Finding and reading files, and remembering where every row came from.

A path with ``*``, ``?`` or ``[...]`` stands for several files with the same columns (one file per bank, or one for
training and one for test): the column ``file`` then says which one a row is from, without folder and suffix.
"""

from __future__ import annotations

import glob
import gzip
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedsim.core.errors import DataError, suggest

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class RawRows:
    """A data frame (RangeIndex) and the place of each of its rows."""

    frame: pd.DataFrame
    files: tuple[str, ...]
    file_of: np.ndarray  # (n,) index into files
    line_of: np.ndarray  # (n,) line in its file, counted from 1

    def place(self, row: int) -> str:
        """ "banks.csv:418", as an editor counts lines."""
        return f"{self.files[self.file_of[row]]}:{self.line_of[row]}"

    @property
    def name(self) -> str:
        """What to call the whole in a message."""
        return self.files[0] if len(self.files) == 1 else f"{self.files[0]} and {len(self.files) - 1} more files"

    def take(self, rows: np.ndarray) -> RawRows:
        frame = self.frame.take(rows).reset_index(drop=True)
        return RawRows(frame, self.files, self.file_of[rows], self.line_of[rows])


def raw_rows(frame: pd.DataFrame, file: str, lines: np.ndarray | None = None) -> RawRows:
    """Rows of one file; ``lines`` defaults to 1, 2, ..."""
    found = np.arange(1, len(frame) + 1) if lines is None else lines
    return RawRows(frame, (file,), np.zeros(len(frame), dtype=np.int64), found)


def concatenate(parts: Sequence[RawRows]) -> RawRows:
    """Files one after the other. DataError when their columns differ."""
    import pandas as pd

    first = parts[0]
    for part in parts[1:]:
        differing = sorted(set(map(str, first.frame.columns)) ^ set(map(str, part.frame.columns)))
        if differing:
            raise DataError(f"{part.name}: columns differ from {first.name}: only one has {', '.join(differing)}")
    frame = pd.concat([part.frame for part in parts], ignore_index=True)
    file_of = np.concatenate([np.full(len(part.frame), index) for index, part in enumerate(parts)])
    return RawRows(frame, tuple(part.name for part in parts), file_of, np.concatenate([part.line_of for part in parts]))


def shown(path: str | Path) -> str:
    """A path as messages show it: relative to the working directory where it lies below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.pardir) else relative


def find_files(path: str, suffixes: Sequence[str]) -> list[Path]:
    """The files behind a path or pattern, sorted. DataError when there is none or one cannot be data."""
    found = [Path(path)]
    if not os.path.lexists(path) and glob.has_magic(path):
        found = sorted(Path(match) for match in glob.glob(path))
        if not found:
            raise DataError(f"{shown(path)}: no file matches this pattern")
    for file in found:
        _check(file, suffixes)
    return found


def _check(file: Path, suffixes: Sequence[str]) -> None:
    if not file.exists():
        siblings = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
        where = "" if file.parent.is_dir() else f" (nor a folder {shown(file.parent)})"
        raise DataError(f"{shown(file)}: no such file{where}.{suggest(file.name, siblings)}".rstrip("."))
    if file.is_dir():
        raise DataError(f"{shown(file)}: is a folder, not a file; name a file in it, or a pattern like {file.name}/*")
    if not file.is_file():
        raise DataError(f"{shown(file)}: is not a regular file")
    if not file.name.lower().endswith(tuple(suffixes)):
        raise DataError(f"{shown(file)}: expected a file ending in {', '.join(suffixes)}")
    if file.stat().st_size == 0:
        raise DataError(f"{shown(file)}: is empty")


def read_files(path: str, suffixes: Sequence[str], read: Callable[[Path], RawRows]) -> RawRows:
    """All rows of the file, or of the files of a pattern, which get the column ``file`` (unless they have one)."""
    files = find_files(path, suffixes)
    if files == [Path(path)]:
        return read(files[0])
    common = os.path.commonpath([file.parent for file in files])
    parts = []
    for file in files:
        part, label = read(file), Path(os.path.relpath(file, common)).as_posix()
        suffix = next(suffix for suffix in sorted(suffixes, key=len, reverse=True) if label.lower().endswith(suffix))
        if "file" not in part.frame:
            part.frame.insert(len(part.frame.columns), "file", label[: -len(suffix)])
        parts.append(part)
    return concatenate(parts)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turns what goes wrong while a file is read into one DataError line."""
    try:
        yield
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise DataError(f"{shown(file)}: is not UTF-8 (byte 0x{byte:02x}); save it as UTF-8") from error
    except PermissionError as error:
        raise DataError(f"{shown(file)}: cannot be read: permission denied") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{shown(file)}: is damaged or not gzip ({error})") from error
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise DataError(f"{shown(file)}: cannot be read: {reason}") from error
