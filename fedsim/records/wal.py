"""An append-only log of JSON records, each durable before ``append`` returns.

A line is ``<length> <crc32> <record>``: both numbers as eight hexadecimal digits, over the record's bytes. Records are
numbered from 0 by their key ``n``, so that a line taken out is missed. A crash may cut the last line short: then the
log is *torn*, and its owner decides what that line stood for. Damage anywhere else is a *gap*, and nothing behind it
is believed.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedsim.core.errors import CheckpointError, FedsimError
from fedsim.records.disk import DISK, Disk, refusal, replace_file

HEADER = 18  # bytes before the record
Record = Mapping[str, Any]


def unguarded() -> None:
    """Nobody else writes."""


class Log:
    """One log and all its records. ``guard`` is called before every write and raises when this process may not."""

    def __init__(
        self,
        path: Path,
        damaged: type[FedsimError],
        disk: Disk = DISK,
        guard: Callable[[], None] = unguarded,
    ) -> None:
        """Reads what is there. CheckpointError when it cannot; ``damaged``, with the line, when there is a gap."""
        self.path, self._disk, self._guard = path, disk, guard
        self.records: list[Record] = []
        self.torn = False
        self._size = 0  # bytes of whole records
        self._hash = hashlib.sha256()
        try:
            data = disk.read(path)
        except FileNotFoundError:
            data = b""
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise CheckpointError(f"cannot read {path}: {reason}; mend this and resume") from error
        self._read(data, damaged)

    def _read(self, data: bytes, damaged: type[FedsimError]) -> None:
        while self._size < len(data):
            end = data.find(b"\n", self._size) + 1
            line = data[self._size : end] if end else b""
            record = _record(line)
            if record is None and not any(_record(later + b"\n") for later in data[self._size :].split(b"\n")[1:]):
                self.torn = True  # nothing readable follows
                return
            if record is None or record.get("n") != len(self.records):
                where = f"line {len(self.records) + 1}"
                raise damaged(f"{self.path}: {where} is damaged or missing, and others follow it")
            self._took(line, record)

    def _took(self, line: bytes, record: Record) -> None:
        self.records.append({key: value for key, value in record.items() if key != "n"})
        self._size += len(line)
        self._hash.update(line)

    def append(self, record: Record) -> None:
        """CheckpointError when the disk refuses; the log is then as it was, as far as the disk allows."""
        if self.torn:
            raise ValueError(f"{self.path} is torn: mend it first")
        self._guard()
        numbered = {"n": len(self.records), **record}
        line = _line(numbered)
        try:
            self._disk.append(self.path, line)
            self._disk.sync(self.path)
            if not self.records:
                self._disk.sync(self.path.parent)
        except OSError as error:
            self._cut()
            raise refusal(error, self.path, self._disk, len(line)) from error
        self._took(line, numbered)

    def _cut(self) -> None:
        try:
            self._disk.truncate(self.path, self._size)
        except OSError:
            return  # the next reader finds a torn log

    def mend(self, *instead: Record) -> None:
        """Drop the torn line and write ``instead`` in its place, both or neither. CheckpointError as ``append``."""
        self._guard()
        numbered = [{"n": len(self.records) + index, **record} for index, record in enumerate(instead)]
        lines = [_line(record) for record in numbered]
        try:
            whole = self._disk.read(self.path)[: self._size]
            replace_file(self._disk, self.path, whole + b"".join(lines))
        except OSError as error:
            raise refusal(error, self.path, self._disk) from error
        self.torn = False
        for line, record in zip(lines, numbered, strict=True):
            self._took(line, record)

    def digest(self) -> str:
        """SHA-256 of all whole records."""
        return self._hash.hexdigest()

    def digest_of(self, count: int) -> str:
        """SHA-256 of the first ``count`` records."""
        digest = hashlib.sha256()
        for number, record in enumerate(self.records[:count]):
            digest.update(_line({"n": number, **record}))
        return digest.hexdigest()


def _line(record: Record) -> bytes:
    body = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %08x %s\n" % (len(body), zlib.crc32(body), body)


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of a whole line, or None."""
    body = line[HEADER:-1]
    if line[:HEADER] != b"%08x %08x " % (len(body), zlib.crc32(body)) or line[-1:] != b"\n":
        return None
    try:
        record = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
