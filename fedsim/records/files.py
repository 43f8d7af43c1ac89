"""Files that are either there and whole or not there, and JSON that every reader accepts."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedsim.core.errors import CheckpointError
from fedsim.core.regular import open_regular, read_regular


def to_json(value: object, indent: int | None = None) -> str:
    """Strict JSON in ASCII: NaN and infinities, which JSON cannot say, become null. TypeError on foreign objects."""
    return json.dumps(_plain(value), allow_nan=False, indent=indent)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_atomically(path: Path, text: str) -> None:
    """Replace a file as a whole: after a crash it holds the old text or the new one. CheckpointError when it cannot."""
    temporary = path.with_name(f".{path.name}.tmp")
    with _as_checkpoint_error(path):
        _write(temporary, text, os.O_TRUNC)
        temporary.replace(path)
        _sync(path.parent)


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder that is there only once ``fill`` has written all of it. CheckpointError when it cannot."""
    if folder.exists():
        raise CheckpointError(f"cannot write {folder}: it exists already; remove it or give another folder")
    temporary = folder.with_name(f".{folder.name}.tmp")
    with _as_checkpoint_error(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        fill(temporary)
        for path in temporary.rglob("*"):
            _sync(path)
        _sync(temporary)
        temporary.replace(folder)
        _sync(folder.parent)


def append_lines(path: Path, objects: Iterable[Mapping[str, object]]) -> None:
    """Append one line of JSON per object, all in one write, and wait for the disk. CheckpointError when it cannot."""
    text = "".join(f"{to_json(item)}\n" for item in objects)
    with _as_checkpoint_error(path):
        _write(path, text, os.O_APPEND)


def remove(*paths: Path) -> None:
    """Remove files and folders that are there. CheckpointError when one cannot be."""
    for path in paths:
        with _as_checkpoint_error(path):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """CheckpointError when the file cannot be read or is not JSON."""
    with _as_checkpoint_error(path, "read"):
        return json.loads(read_regular(path).decode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines. A last line that a crash cut short is left out."""
    with _as_checkpoint_error(path, "read"):
        whole, _, _cut = read_regular(path).decode().rpartition("\n")
        lines = [json.loads(line) for line in whole.split("\n") if line]
    if not all(isinstance(line, dict) for line in lines):
        raise CheckpointError(f"cannot read {path}: a line is no object; is it of a run directory?")
    return lines


@contextmanager
def making_sense(*folders: Path) -> Iterator[None]:
    """For who tells of run directories: CheckpointError where what was read has other keys or types than were written.

    Each file is JSON, and looked at as such when it is read; ``--debug`` shows which key it was.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        where, what = ", ".join(map(str, folders)), f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(
            f"cannot make sense of {where} ({what}); to have a run's tables written again, resume it"
        ) from error


def _write(path: Path, text: str, how: int) -> None:
    with open(open_regular(path, os.O_WRONLY | os.O_CREAT | how), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _as_checkpoint_error(path: Path, verb: str = "write") -> Iterator[None]:
    remedy = "give another folder or free space" if verb == "write" else "is it a run directory?"
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot {verb} {path}: {error.strerror or error}; {remedy}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"cannot {verb} {path}: not JSON ({error}); {remedy}") from error
