"""Files that are files. A pipe, a device or a socket in a file's place never begins, or never ends.

Everything that is read of a run directory goes through here, as does what is written to it, and what users give by name
unless it was looked at before. All functions raise OSError.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file, also behind a symbolic link. Never waits."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is a directory" if stat.S_ISDIR(mode) else "not a regular file", str(path))
    return descriptor


def read_regular(path: Path) -> bytes:
    """The whole file. One larger than half of the machine's memory is refused: no use can be made of it here."""
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > _memory_bytes() // 2:
            raise OSError(errno.EFBIG, f"{size} bytes, too large for this machine's memory", str(path))
        return file.read()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
