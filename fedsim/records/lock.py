"""One writer per run directory: the file ``LOCK`` says who it is, and its epoch fences off whoever was it before.

The epoch rises with every start. A process that holds an old one (it was stopped, cut off, or is only slow to die)
finds a higher number before its next write and is refused. Whether a holder on this machine still lives is asked of the
kernel, by process id and start time; of a holder on another machine nothing can be known, so its lock has to be stolen
by hand.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedsim.core.errors import CheckpointError, LockedError
from fedsim.records.disk import DISK, refusal, replace_file

LOCK = "LOCK"


@dataclass(frozen=True, slots=True)
class Holder:
    """The content of ``LOCK``; without a process id the last holder has left in good order."""

    epoch: int
    pid: int | None
    start: str  # when the kernel started the process, to tell it from a later one of the same id
    host: str
    since: str  # UTC, for people

    @property
    def alive(self) -> bool:
        """Whether a holder of this machine still runs."""
        if self.pid is None:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return self.start == _start_of(self.pid)

    @property
    def sound(self) -> bool:
        """Whether it can be what a process wrote of itself."""
        numbers = [self.epoch, *([] if self.pid is None else [self.pid])]
        texts = (self.start, self.host, self.since)
        return all(type(n) is int and 0 < n < 2**31 for n in numbers) and all(isinstance(text, str) for text in texts)

    @property
    def here(self) -> bool:
        """Whether it is, or was, a process of this machine."""
        return self.host == socket.gethostname()


@dataclass(frozen=True, slots=True)
class Fence:
    """What a writer carries, wherever it runs: it may write as long as the lock has its epoch."""

    folder: Path
    epoch: int

    def __call__(self) -> None:
        """CheckpointError when another process has taken over."""
        holder = holder_of(self.folder)
        if holder is None or holder.epoch != self.epoch:
            found = "no lock" if holder is None else f"epoch {holder.epoch}"
            raise CheckpointError(f"{self.folder}: another process has taken over (epoch {self.epoch}, found {found})")


def acquire(folder: Path, steal: bool = False, above: int = 0) -> Fence:
    """Lock a run directory, which exists. LockedError when another process holds it.

    The epoch is above that of the last holder and above ``above``.
    """
    with _alone(folder):
        try:
            holder = holder_of(folder)
        except CheckpointError:
            if not steal:
                raise
            holder = None
        if holder is not None and holder.pid is not None and not steal:
            who = f"{folder} is locked by process {holder.pid} on {holder.host} since {holder.since}"
            if not holder.here:
                raise LockedError(f"{who}; if that machine is gone for good: --steal-lock")
            if holder.alive:
                raise LockedError(f"{who}; wait for it or end it")
        epoch = 1 + max(above, holder.epoch if holder else 0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        _write(folder, Holder(epoch, os.getpid(), _start_of(os.getpid()), socket.gethostname(), since))
    return Fence(folder, epoch)


def release(fence: Fence) -> None:
    """Leave in good order; nothing to do for who has been fenced off."""
    with _alone(fence.folder):
        holder = holder_of(fence.folder)
        if holder is not None and holder.epoch == fence.epoch:
            _write(fence.folder, Holder(holder.epoch, None, "", holder.host, holder.since))


def holder_of(folder: Path) -> Holder | None:
    """Who holds a run directory, or held it last; None where nobody has. CheckpointError when that cannot be told."""
    path = folder / LOCK
    try:
        holder = Holder(**json.loads(DISK.read(path)))
        if not holder.sound:
            raise ValueError("other types than were written")
        return holder
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged; if no process uses this run: --steal-lock") from error


def _write(folder: Path, holder: Holder) -> None:
    path = folder / LOCK
    try:
        replace_file(DISK, path, f"{json.dumps(asdict(holder))}\n".encode())
    except OSError as error:
        raise refusal(error, path) from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time looks and writes, as far as the file system knows locks; the epoch does the rest."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise CheckpointError(f"cannot open run directory {folder}: {error.strerror}") from error
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _start_of(pid: int) -> str:
    """Clock ticks after boot at which a process started; empty where the kernel does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
