"""Run a command and watch it with all its processes: wall and CPU seconds, memory, and what others took meanwhile."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from fedsim.core.errors import FedsimError

SAMPLE_S, PSS_EVERY = 0.2, 5  # proportional set sizes cost a walk over all pages
PR_SET_CHILD_SUBREAPER = 36  # prctl.h: daemons of the child become ours, so that their CPU seconds are counted


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
    strangers = set(_children().get(os.getpid(), []))
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before, cpu, start = _busy_seconds(), _children_cpu(), time.time()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    watch = _Watch()
    stderr = child.communicate()[1]
    wall = time.time() - start
    watch.stop()
    _reap(strangers, patience_s)
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    cpu = _children_cpu() - cpu
    others = max(0.0, _busy_seconds() - before - cpu) / (time.time() - start)
    if child.returncode:
        raise FedsimError(f"{' '.join(command)} ended with {child.returncode}: {stderr.strip()[-2000:]}")
    return Measured(start, wall, watch.rss / 1e6, watch.pss / 1e6, cpu, watch.processes, others)


class _Watch:
    """Samples the memory of this process' descendants in a thread."""

    def __init__(self) -> None:
        self.rss = self.pss = self.processes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(SAMPLE_S):
            found = descendants(os.getpid())
            self.processes = max(self.processes, len(found))
            self.rss = max(self.rss, sum(_kilobytes(pid, "status", "VmRSS:") for pid in found) * 1024)
            if number % PSS_EVERY == 0:
                self.pss = max(self.pss, sum(_kilobytes(pid, "smaps_rollup", "Pss:") for pid in found) * 1024)
            number += 1

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def descendants(root: int) -> list[int]:
    """Process ids below ``root``."""
    children, found, todo = _children(), [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _children() -> dict[int, list[int]]:
    """Of every process on the machine."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    children.setdefault(int(file.read().rsplit(")", 1)[1].split()[1]), []).append(int(entry))
            except OSError:
                continue  # it has ended
    return children


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


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _reap(strangers: set[int], patience_s: float) -> None:
    """Wait for daemons that the child has left, so that their CPU seconds are counted."""
    end = time.time() + patience_s
    while (left := set(_children().get(os.getpid(), [])) - strangers) and time.time() < end:
        for pid in left:
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.1)
