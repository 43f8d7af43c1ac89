"""What a killed run leaves on this machine: processes of its private Ray session, and the session's folder.

Every process of a session carries ``FEDSIM_RUN`` in its environment, which names the process that started the session.
Where that one is gone, the others are left over. The mark is read here and nowhere else.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "FEDSIM_RUN"
FOLDER = "fedsim-"
END_S = 3.0
OWN_S = 0.5  # for processes that start while the others are killed


def mark(environment: MutableMapping[str, str], pid: int | None = None) -> None:
    """Put the mark of a process, by default this one, into an environment that others inherit."""
    process = psutil.Process(pid)
    environment[MARK] = f"{process.pid}@{process.create_time():.2f}"


def make_folder() -> str:
    """A private folder for a session of this process, with a short path: a socket's may have 107 bytes."""
    return tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-", dir=_parent())


def _parent() -> str:
    return "/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir()


@dataclass(frozen=True, slots=True)
class Leftover:
    """A process whose run is gone."""

    pid: int
    run: str  # the process that started the session
    command: str


def processes() -> list[Leftover]:
    """Of this user, in the order of their ids."""
    return [
        Leftover(process.pid, run, process.name())
        for process, run in _marked()
        if not _alive(run) and process.pid != os.getpid()
    ]


def folders() -> list[Path]:
    """Of sessions whose process is gone."""
    found = []
    for path in sorted(Path(_parent()).glob(f"{FOLDER}*")):
        owner = re.fullmatch(rf"{FOLDER}(\d+)-\w+", path.name)
        mine = path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid()
        if owner and mine and not psutil.pid_exists(int(owner[1])):
            found.append(path)
    return found


def clean(found: Sequence[Leftover], dead_folders: Sequence[Path]) -> None:
    """End these processes, the unwilling by SIGKILL, and remove these folders. Nothing without the mark is touched."""
    still = {process.pid: process for process, run in _marked() if not _alive(run)}
    ending = [still[one.pid] for one in found if one.pid in still]
    for signalled in (psutil.Process.terminate, psutil.Process.kill):
        for process in ending:
            try:
                signalled(process)
            except psutil.NoSuchProcess:
                continue
        _, ending = psutil.wait_procs(ending, timeout=END_S)
    for folder in dead_folders:
        shutil.rmtree(folder, ignore_errors=True)


def end_own() -> None:
    """Kill every process of the session that this process has started, also those whose parent is gone, and remove the
    session's folder.

    Looks again until there is none: one may be starting another in the meantime.
    """
    mine = os.environ.get(MARK, "")
    if not mine.startswith(f"{os.getpid()}@"):
        return
    end = time.monotonic() + OWN_S
    while found := [process for process, run in _marked() if run == mine and process.pid != os.getpid()]:
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=OWN_S / 5)
        if time.monotonic() > end:
            break
    for folder in Path(_parent()).glob(f"{FOLDER}{os.getpid()}-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _marked() -> Iterator[tuple[psutil.Process, str]]:
    for process in psutil.process_iter():
        try:
            environment: Mapping[str, str] = process.environ()
        except (psutil.Error, OSError):  # another user's, or gone
            continue
        if re.fullmatch(r"\d+@[\d.]+", environment.get(MARK, "")):
            yield process, environment[MARK]


def _alive(run: str) -> bool:
    """Whether the process that a mark names is the one that has its id now."""
    pid, _, born = run.partition("@")
    try:
        process = psutil.Process(int(pid))
        return abs(process.create_time() - float(born)) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
