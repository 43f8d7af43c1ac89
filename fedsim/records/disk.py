"""What a run directory asks of the file system, one system call at a time, so that a test can stand in for it.

Nothing is durable before ``sync``: of the file for its content, of the folder for the names in it. All methods raise
OSError; ``refusal`` puts one into words. A failed fsync is never tried again: the kernel may have dropped the pages,
and a second call would report success (Rebello et al., ATC'20).
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from fedsim.core.errors import CheckpointError
from fedsim.core.regular import open_regular, read_regular


class Disk:
    """The real one."""

    def read(self, path: Path) -> bytes:
        return read_regular(path)

    def names(self, folder: Path) -> list[str]:
        """What a folder holds, sorted; empty when it is not there."""
        try:
            return sorted(os.listdir(folder))
        except FileNotFoundError:
            return []

    def is_folder(self, path: Path) -> bool:
        return path.is_dir() and not path.is_symlink()

    def write(self, path: Path, data: bytes) -> None:
        """Make a file or replace what it holds."""
        self._put(path, data, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def append(self, path: Path, data: bytes) -> None:
        """Make a file or write behind what it holds."""
        self._put(path, data, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def truncate(self, path: Path, size: int) -> None:
        os.truncate(path, size)

    def rename(self, old: Path, new: Path) -> None:
        """Replaces a file; a folder only where there is none."""
        os.rename(old, new)

    def make_folder(self, path: Path) -> None:
        """FileExistsError when it is there."""
        os.mkdir(path)

    def remove_file(self, path: Path) -> None:
        os.unlink(path)

    def remove_folder(self, path: Path) -> None:
        """An empty one."""
        os.rmdir(path)

    def sync(self, path: Path) -> None:
        """Wait until a file's content, or the names in a folder, are on the disk."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free_bytes(self, folder: Path) -> int:
        return shutil.disk_usage(folder).free

    def _put(self, path: Path, data: bytes, flags: int) -> None:
        descriptor = open_regular(path, flags)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        finally:
            os.close(descriptor)


DISK = Disk()


def replace_file(disk: Disk, path: Path, data: bytes) -> None:
    """After a crash at any moment the file holds the old bytes or the new ones."""
    temporary = path.with_name(f".{path.name}.tmp")
    disk.write(temporary, data)
    disk.sync(temporary)
    disk.rename(temporary, path)
    disk.sync(path.parent)


def remove_tree(disk: Disk, path: Path) -> None:
    """A file, or a folder with all that it holds."""
    if not disk.is_folder(path):
        disk.remove_file(path)
        return
    for name in disk.names(path):
        remove_tree(disk, path / name)
    disk.remove_folder(path)


def refusal(error: OSError, path: Path, disk: Disk = DISK, needed: int | None = None) -> CheckpointError:
    """What the user is told when the disk refuses to write; ``needed`` is in bytes."""
    reason = (error.strerror or str(error)).lower()
    remedy = "the last committed round is intact: mend this and resume"
    if error.errno in (errno.ENOSPC, errno.EDQUOT) and needed is not None:
        try:
            reason += f": need {needed} bytes, have {disk.free_bytes(path.parent)}"
        except OSError:
            reason += f": need {needed} bytes"
    return CheckpointError(f"cannot write {path}: {reason}; {remedy}")
