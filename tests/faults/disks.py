"""Disks that fail: one in memory that forgets what was not synced, and the real one with an errno at the n-th call."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from fedsim.records.disk import Disk


class Crash(BaseException):
    """The machine stops."""


@dataclass
class File:
    now: bytes = b""
    safe: bytes = b""  # what is sure to be there after a crash


@dataclass
class Folder:
    now: dict[str, File | Folder] = field(default_factory=dict)
    safe: dict[str, File | Folder] = field(default_factory=dict)


class Memory(Disk):
    """A disk in memory that stops before its n-th change. ``honest``: whether sync does anything."""

    def __init__(self, root: Folder | None = None, stop_at: int | None = None, honest: bool = True) -> None:
        self.root, self.stop_at, self.honest, self.calls = root or Folder(), stop_at, honest, 0

    def after_crash(self, rng: random.Random) -> Memory:
        """What is found when the machine is on again: each change that was not synced is there, or not, or in part."""
        return Memory(_folder(self.root, rng), honest=self.honest)

    # ---------------------------------------------------------------------------------------------- reading

    def read(self, path: Path) -> bytes:
        node = self._find(path)
        if not isinstance(node, File):
            raise FileNotFoundError(path)
        return node.now

    def names(self, folder: Path) -> list[str]:
        node = self._find(folder)
        return sorted(node.now) if isinstance(node, Folder) else []

    def is_folder(self, path: Path) -> bool:
        return isinstance(self._find(path), Folder)

    # ---------------------------------------------------------------------------------------------- changes

    def write(self, path: Path, data: bytes) -> None:
        self._file(path).now = b""
        self._step()
        self._file(path).now = data

    def append(self, path: Path, data: bytes) -> None:
        self._step()
        self._file(path).now += data

    def truncate(self, path: Path, size: int) -> None:
        self._step()
        self._file(path).now = self._file(path).now[:size]

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        parent = self._parent(new)
        if isinstance(parent.now.get(new.name), Folder):
            raise FileExistsError(new)
        parent.now[new.name] = self._parent(old).now.pop(old.name)

    def make_folder(self, path: Path) -> None:
        self._step()
        self._parent(path).now[path.name] = Folder()

    def remove_file(self, path: Path) -> None:
        self._step()
        del self._parent(path).now[path.name]

    def remove_folder(self, path: Path) -> None:
        self.remove_file(path)

    def sync(self, path: Path) -> None:
        self._step()
        node = self._find(path)
        if not self.honest:
            return
        if isinstance(node, File):
            node.safe = node.now
        elif node is not None:
            node.safe = dict(node.now)

    def _step(self) -> None:
        self.calls += 1
        if self.calls == self.stop_at:
            raise Crash

    def _find(self, path: Path) -> File | Folder | None:
        node: File | Folder | None = self.root
        for part in path.parts:
            node = node.now.get(part) if isinstance(node, Folder) else None
        return node

    def _parent(self, path: Path) -> Folder:
        node = self._find(path.parent)
        assert isinstance(node, Folder)
        return node

    def _file(self, path: Path) -> File:
        node = self._parent(path).now.setdefault(path.name, File())
        assert isinstance(node, File)
        return node


def _folder(folder: Folder, rng: random.Random) -> Folder:
    left: dict[str, File | Folder] = {}
    for name in sorted({*folder.now, *folder.safe}):
        now, safe = folder.now.get(name), folder.safe.get(name)
        node = now if now is safe or rng.random() < 0.5 else safe
        if isinstance(node, Folder):
            left[name] = _folder(node, rng)
        elif node is not None:
            data = node.safe
            if node.now != node.safe:
                least = len(node.safe) if node.now.startswith(node.safe) else 0  # what was appended to stays
                data = rng.choice([node.safe, node.now, node.now[: rng.randint(least, len(node.now))]])
            left[name] = File(data, data)
    return Folder(left, dict(left))


class Refusing(Disk):
    """The real disk, which refuses the n-th change with an errno; a refused write has written half of its data."""

    def __init__(self, refuse_at: int | None, number: int, only: str = "") -> None:
        self.refuse_at, self.number, self.only, self.calls, self.refused = refuse_at, number, only, 0, ""

    def write(self, path: Path, data: bytes) -> None:
        if self._refuses("write"):
            super().write(path, data[: len(data) // 2])
            raise OSError(self.number, os.strerror(self.number))
        super().write(path, data)

    def append(self, path: Path, data: bytes) -> None:
        if self._refuses("append"):
            super().append(path, data[: len(data) // 2])
            raise OSError(self.number, os.strerror(self.number))
        super().append(path, data)

    def rename(self, old: Path, new: Path) -> None:
        self._maybe("rename")
        super().rename(old, new)

    def make_folder(self, path: Path) -> None:
        self._maybe("make_folder")
        super().make_folder(path)

    def sync(self, path: Path) -> None:
        self._maybe("sync")
        super().sync(path)

    def _maybe(self, what: str) -> None:
        if self._refuses(what):
            raise OSError(self.number, os.strerror(self.number))

    def _refuses(self, what: str) -> bool:
        if self.only and what != self.only:
            return False
        self.calls += 1
        if self.calls == self.refuse_at:
            self.refused = what
        return self.calls == self.refuse_at
