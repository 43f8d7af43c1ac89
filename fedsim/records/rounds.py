"""Committed rounds of a run: sets of files that are there whole, verified and in a chain, or not there.

    rounds/000003/MANIFEST.json   round, size and SHA-256 of every other file, SHA-256 of the manifest before
    rounds/000003/...             the files
    HEAD                          the round that counts and its manifest's SHA-256

``stage`` writes a round beside the others; ``commit`` moves it into place and then replaces HEAD, which is the only
moment that matters: before it a crash leaves the old round, after it the new one. Every file is synced before the
rename that makes it visible, and every folder after it (Pillai et al., OSDI'14). The newest two rounds stay, so that a
damaged one can be made again from the one before. Nothing in a manifest depends on time, place or number of tries: two
runs of the same bits have the same manifests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedsim.core.errors import CheckpointError
from fedsim.records.disk import DISK, Disk, refusal, remove_tree, replace_file
from fedsim.records.wal import unguarded

FORMAT = 1
HEAD, ROUNDS, MANIFEST = "HEAD", "rounds", "MANIFEST.json"
KEPT_ROUNDS = 2
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)  # JSON of something else


@dataclass(frozen=True, slots=True)
class Staged:
    """A round that is written and does not count yet."""

    round: int
    manifest: str  # SHA-256 of MANIFEST.json
    previous: str
    place: Path
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Found:
    """A verified round. ``notes`` say what was passed over to get to it, ``head`` what HEAD holds beside the round."""

    round: int
    manifest: str
    previous: str
    files: Mapping[str, bytes]
    notes: tuple[str, ...] = ()
    head: Mapping[str, Any] = field(default_factory=dict)


class Rounds:
    """The rounds of one run directory. Everything raises CheckpointError."""

    def __init__(
        self, folder: Path, disk: Disk = DISK, guard: Callable[[], None] = unguarded, writer: str = "0"
    ) -> None:
        """``writer`` tells the unfinished work of one process from another's."""
        self.folder, self._disk, self._guard, self._writer = folder, disk, guard, writer

    def place(self, round_: int) -> Path:
        """Where a round's files are."""
        return self.folder / ROUNDS / _name(round_)

    # -------------------------------------------------------------------------------------------------- writing

    def stage(self, round_: int, files: Iterable[tuple[str, bytes]], previous: str) -> Staged:
        """Write a round's files and manifest where nothing looks for them. ``previous``: the manifest before."""
        self._guard()
        disk, place = self._disk, self.folder / ROUNDS / f".tmp-{round_}-{self._writer}"
        listed: dict[str, dict[str, object]] = {}
        num_bytes = 0
        try:
            if ROUNDS not in disk.names(self.folder):
                disk.make_folder(self.folder / ROUNDS)
                disk.sync(self.folder)
            if place.name in disk.names(place.parent):
                remove_tree(disk, place)
            disk.make_folder(place)
            for name, data in files:
                num_bytes += len(data)
                _write_synced(disk, place / name, data)
                listed[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            content = {"format": FORMAT, "round": round_, "previous": previous, "files": listed}
            manifest = json.dumps(content, indent=1, sort_keys=True).encode()
            _write_synced(disk, place / MANIFEST, manifest)
            disk.sync(place)
        except OSError as error:
            self._clear(place)
            raise refusal(error, place, disk, num_bytes) from error
        return Staged(round_, hashlib.sha256(manifest).hexdigest(), previous, place, num_bytes)

    def commit(self, staged: Staged, extra: Mapping[str, object]) -> None:
        """Make a staged round the one that counts. ``extra`` goes into HEAD beside it."""
        self._guard()
        disk, rounds = self._disk, self.folder / ROUNDS
        final = self.place(staged.round)
        head = {"round": staged.round, "manifest": staged.manifest, "previous": staged.previous, **extra}
        try:
            if final.name in disk.names(rounds):  # of a try that did not get as far as HEAD, or damaged
                remove_tree(disk, final)
            disk.rename(staged.place, final)
            disk.sync(rounds)
            self._guard()
            replace_file(disk, self.folder / HEAD, f"{json.dumps(head)}\n".encode())
            for name in set(disk.names(rounds)) - {_name(staged.round - age) for age in range(KEPT_ROUNDS)}:
                remove_tree(disk, rounds / name)
        except OSError as error:
            self._clear(staged.place)
            raise refusal(error, final, disk, staged.num_bytes) from error

    def adopt(self, found: Found, extra: Mapping[str, object]) -> None:
        """Write HEAD again, where it was lost, for a round that was found without it."""
        self._guard()
        head = {"round": found.round, "manifest": found.manifest, "previous": found.previous, **extra}
        try:
            replace_file(self._disk, self.folder / HEAD, f"{json.dumps(head)}\n".encode())
        except OSError as error:
            raise refusal(error, self.folder / HEAD, self._disk) from error

    def discard(self, staged: Staged) -> None:
        """Give up a staged round, as far as the disk allows."""
        self._clear(staged.place)

    def _clear(self, place: Path) -> None:
        try:
            if place.name in self._disk.names(place.parent):
                remove_tree(self._disk, place)
        except OSError:
            return  # the next commit clears it

    # -------------------------------------------------------------------------------------------------- reading

    def newest(self, fallback: bool = True) -> Found | None:
        """The newest round that is whole; None when none was ever committed.

        Without ``fallback`` it must be the one that HEAD names. Nothing is deleted, whatever is found.
        """
        try:
            return self._newest(fallback)
        except OSError as error:
            raise CheckpointError(f"cannot read {self.folder}: {error.strerror}") from error

    def _newest(self, fallback: bool) -> Found | None:
        head, notes = self._head()
        names = [name for name in self._disk.names(self.folder / ROUNDS) if not name.startswith(".")]
        if head is None and not notes:
            if max(names, default="") <= _name(0):
                return None  # the first commit did not come to its end, or there was none
            notes.append(f"{HEAD} is missing")
        known: dict[str, str] = {}  # folder -> the manifest that it must have
        if head is not None:
            names = [name for name in names if name <= _name(head["round"])]
            known = {_name(head["round"]): head["manifest"], _name(head["round"] - 1): head["previous"]}
            if _name(head["round"]) not in names:
                notes.append(f"{ROUNDS}/{_name(head['round'])} is missing")
        for name in sorted(names, reverse=True):
            if notes and not fallback:
                break
            try:
                number, manifest, previous, files = self._verified(name, known.get(name))
            except _Damage as damage:
                notes.append(str(damage))
                continue
            return Found(number, manifest, previous, files, tuple(notes), head or {})
        told = "; ".join(notes)
        if notes and not fallback:
            raise CheckpointError(f"{self.folder}: {told}; without --no-fallback an older round would be looked for")
        raise CheckpointError(f"{self.folder}: no committed round is whole ({told}); nothing was changed or deleted")

    def _head(self) -> tuple[dict[str, Any] | None, list[str]]:
        """(what HEAD says or None, what is wrong with it)."""
        if HEAD not in self._disk.names(self.folder):
            return None, []
        try:
            head = json.loads(self._disk.read(self.folder / HEAD))
            names = {name: str(head[name]) for name in ("manifest", "previous")}
            return {**head, **names, "round": int(head["round"])}, []
        except (*UNREADABLE, OSError):
            return None, [f"{HEAD} is not readable"]

    def _verified(self, name: str, wanted: str | None) -> tuple[int, str, str, dict[str, bytes]]:
        place, here = self.folder / ROUNDS / name, f"{ROUNDS}/{name}"
        try:
            there = set(self._disk.names(place))
        except OSError as error:
            raise _Damage(f"{here} cannot be read: {_reason(error)}") from error
        raw = self._read(name, MANIFEST, there)
        digest = hashlib.sha256(raw).hexdigest()
        if wanted is not None and digest != wanted:
            raise _Damage(f"{here}/{MANIFEST} is not the one that was committed")
        try:
            manifest = json.loads(raw)
            number, previous, format_ = int(manifest["round"]), str(manifest["previous"]), manifest.get("format")
            listed = {file: (entry["size"], entry["sha256"]) for file, entry in manifest["files"].items()}
        except UNREADABLE as error:
            raise _Damage(f"{here}/{MANIFEST} is not readable") from error
        if format_ != FORMAT:
            raise CheckpointError(f"{place} has format {format_}, this fedsim reads {FORMAT}: upgrade")
        if _name(number) != name:
            raise _Damage(f"{here}/{MANIFEST} is of round {number}")
        for extra in sorted(there - set(listed) - {MANIFEST}):
            raise _Damage(f"{here}/{extra} does not belong there")
        files = {file: self._checked(name, file, entry, there) for file, entry in listed.items()}
        return number, digest, previous, files

    def _checked(self, name: str, file: str, entry: tuple[Any, Any], there: set[str]) -> bytes:
        """One file of a round, which has the size and the SHA-256 that the manifest says."""
        data, here = self._read(name, file, there), f"{ROUNDS}/{name}/{file}"
        size, digest = entry
        if len(data) != size:
            raise _Damage(f"{here} has {len(data)} bytes instead of {size}")
        if hashlib.sha256(data).hexdigest() != digest:
            raise _Damage(f"{here} is damaged (SHA-256 differs)")
        return data

    def _read(self, name: str, file: str, there: set[str]) -> bytes:
        """A file that the folder itself says to hold: a manifest may name others, anywhere on the disk."""
        if file not in there:
            raise _Damage(f"{ROUNDS}/{name}/{file} is missing")
        try:
            return self._disk.read(self.folder / ROUNDS / name / file)
        except OSError as error:
            raise _Damage(f"{ROUNDS}/{name}/{file} cannot be read: {_reason(error)}") from error


class _Damage(Exception):
    """Why a round cannot be used."""


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _name(round_: int) -> str:
    return f"{round_:06d}"


def _write_synced(disk: Disk, path: Path, data: bytes) -> None:
    disk.write(path, data)
    disk.sync(path)
