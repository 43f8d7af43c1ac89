"""Run a command and watch it with all its processes: wall and CPU seconds, memory, and what others took meanwhile."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from fedsim.core.errors import FedsimError

SAMPLE_S, PSS_EVERY = 0.2, 5  # proportional set sizes cost a walk over all pages
PR_SET_CHILD_SUBREAPER = 36  # prctl.h: daemons that the child leaves stay our descendants, and are seen
PARENT, USER, SYSTEM, START = 1, 11, 12, 19  # in /proc/PID/stat, counted from the field after the name


@dataclass(frozen=True, slots=True)
class Measured:
    """``start`` is Unix time; memory is the largest sum over processes seen."""

    start: float
    wall_s: float
    rss_mb: float
    pss_mb: float
    cpu_s: float
    processes: int
    other_cores: float


def measure(command: Sequence[str], patience_s: float = 10.0) -> Measured:
    """Run to the end. FedsimError, with the end of its stderr, when it fails."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    watch = _Watch()
    before, own, start = _busy_seconds(), time.process_time(), time.time()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    stderr = child.communicate()[1]
    wall = time.time() - start
    watch.wait(patience_s)
    others = _busy_seconds() - before - watch.cpu - (time.process_time() - own)
    others = max(0.0, others) / (time.time() - start)
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    if child.returncode:
        raise FedsimError(f"{' '.join(command)} ended with {child.returncode}: {stderr.strip()[-2000:]}")
    return Measured(start, wall, watch.rss / 1e6, watch.pss / 1e6, watch.cpu, watch.processes, others)


class _Watch:
    """Samples this process' descendants in a thread, but for those that were there before.

    CPU seconds are read while a process lives, at most ``SAMPLE_S`` before its end: some are killed and waited for by
    nobody, so that no parent's account ever holds theirs.
    """

    def __init__(self) -> None:
        self.rss = self.pss = self.processes = 0
        self._strangers = set(descendants(os.getpid()))
        self._ticks: dict[tuple[int, int], int] = {}  # by process id and start, as ids come again
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def cpu(self) -> float:
        """CPU seconds."""
        return sum(self._ticks.values()) / os.sysconf("SC_CLK_TCK")

    def _mine(self) -> list[int]:
        return [pid for pid in descendants(os.getpid()) if pid not in self._strangers]

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(SAMPLE_S):
            found = self._mine()
            for pid, stat in _stats(found):
                self._ticks[pid, int(stat[START])] = int(stat[USER]) + int(stat[SYSTEM])
            self.processes = max(self.processes, len(found))
            self.rss = max(self.rss, sum(_kilobytes(pid, "status", "VmRSS:") for pid in found) * 1024)
            if number % PSS_EVERY == 0:
                self.pss = max(self.pss, sum(_kilobytes(pid, "smaps_rollup", "Pss:") for pid in found) * 1024)
            number += 1

    def wait(self, patience_s: float) -> None:
        """Until the daemons that the child has left have ended too; then watch no more."""
        end = time.time() + patience_s
        while (left := self._mine()) and time.time() < end:
            for pid in left:
                with suppress(ChildProcessError):  # it has a parent of its own
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.1)
        self._stop.set()
        self._thread.join()


def descendants(root: int) -> list[int]:
    """Process ids below ``root``."""
    children: dict[int, list[int]] = {}
    for pid, stat in _stats(int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        children.setdefault(int(stat[PARENT]), []).append(pid)
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _stats(pids: Iterable[int]) -> Iterator[tuple[int, list[str]]]:
    """(process id, its fields after the name) of those that still live."""
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat") as file:
                yield pid, file.read().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it has ended


def _kilobytes(pid: int, file: str, key: str) -> int:
    try:
        with open(f"/proc/{pid}/{file}") as stream:
            return next((int(line.split()[1]) for line in stream if line.startswith(key)), 0)
    except OSError:
        return 0  # it has ended


def _busy_seconds() -> float:
    """CPU seconds that the machine has spent on anything."""
    with open("/proc/stat") as file:
        ticks = [int(value) for value in file.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
