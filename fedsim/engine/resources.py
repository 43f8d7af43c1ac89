"""The arithmetic of placing actors, done before anything starts: Ray does not refuse what cannot be placed, it waits.

Importing this costs nothing but the standard library, so that the process which starts the actors is quick to do so.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

from fedsim.core.errors import ResourceError

MOST_BANKS = 16  # in a cohort, unless the scenario says more: beyond that, one pass gains little
TINY = 1e-9  # 0.3 / 0.1 must count as 3


@dataclass(frozen=True, slots=True)
class Actors:
    """How many client actors there are and what each is given."""

    num_actors: int | None = None  # None: as many as fit and can be used; ``place`` puts a number
    cpus: float = 1.0
    gpus: float = 0.0
    banks_per_actor: int | Literal["auto"] = "auto"

    @property
    def threads(self) -> int:
        """Torch threads of a trainer and of the driver, wherever they run: part of the result, as rounding follows."""
        return max(1, int(self.cpus))


def in_a_round(client_fraction: float, num_banks: int) -> int:
    """How many banks are sampled: at least one."""
    return max(1, round(client_fraction * num_banks))


@dataclass(frozen=True, slots=True)
class Node:
    """One machine's share in the arithmetic."""

    cpus: float
    gpus: float

    def room(self, cpus: float, gpus: float) -> int:
        """How many actors of this size fit. A fraction of a GPU is never made up of two GPUs."""
        by_cpu = math.floor(self.cpus / cpus + TINY) if cpus else math.inf
        by_gpu = math.inf
        if gpus >= 1:
            by_gpu = math.floor(self.gpus / gpus + TINY)
        elif gpus > 0:
            by_gpu = math.floor(self.gpus + TINY) * math.floor(1 / gpus + TINY)
        return int(min(by_cpu, by_gpu, 100_000))


def this_machine(count_gpus: bool) -> Node:
    """CPUs that this process may use (affinity and container limit) and, if asked, CUDA devices that it sees."""
    if not count_gpus:
        return Node(cpus=float(usable_cpus()), gpus=0.0)
    import torch

    return Node(cpus=float(usable_cpus()), gpus=float(torch.cuda.device_count()))


def usable_cpus(limit_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """``limit_file`` is cgroup v2's "<quota> <period>" in microseconds, or "max <period>"."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cpus = os.cpu_count() or 1
    if limit_file.is_file():
        quota, period = limit_file.read_text().split()
        if quota != "max":
            cpus = min(cpus, math.ceil(int(quota) / int(period)))
    return max(1, cpus)


def place(actors: Actors, cohort: int, nodes: Sequence[Node]) -> Actors:
    """``actors`` with a number that these nodes hold. ResourceError, with the arithmetic, when they do not.

    ``cohort`` is the number of banks in one round: without a number asked for, no actor is started that would only
    wait.
    """
    room = sum(node.room(actors.cpus, actors.gpus) for node in nodes)
    needed = actors.num_actors or 1
    if room < needed:
        raise ResourceError(_shortage(actors, needed, room, nodes), "resources")
    if actors.num_actors is not None:
        return actors
    return replace(actors, num_actors=max(1, min(room, num_cohorts(cohort, actors))))


def _shortage(actors: Actors, needed: int, room: int, nodes: Sequence[Node]) -> str:
    short, knobs = [], []
    for name, each, have in (
        ("GPU", actors.gpus, math.fsum(node.gpus for node in nodes)),
        ("CPU", actors.cpus, math.fsum(node.cpus for node in nodes)),
    ):
        if needed * each > have + TINY:
            short.append(f"need {needed} x {each:g} {name} = {needed * each:g}, cluster has {have:g}")
            knobs.append(f"resources.{name.lower()}s_per_client")
    if not short:
        size = f"{actors.gpus:g} GPU and {actors.cpus:g} CPU"
        short.append(f"need {needed} actors of {size}, but the nodes and GPUs are cut so that {room} fit")
        knobs = [f"resources.{name}_per_client" for name in ("gpus", "cpus") if getattr(actors, name)]
    if actors.num_actors is not None and actors.num_actors > 1:
        knobs.append("resources.num_actors")
    return f"{'; '.join(short)}; lower {' or '.join(knobs)}"


def num_cohorts(num_jobs: int, actors: Actors) -> int:
    """How many cohorts the jobs of a round make."""
    size = actors.banks_per_actor
    return math.ceil(num_jobs / (min(MOST_BANKS, math.ceil(num_jobs / 2)) if size == "auto" else size))


def cohorts(num_jobs: int, actors: Actors) -> list[range]:
    """Jobs cut into contiguous groups of even size, one call each: at most ``banks_per_actor`` banks in a group.

    The cut decides what is summed in one matrix product, so it must not follow the number of actors: "auto" is half of
    a round's banks and at most 16, on every machine.
    """
    if num_jobs == 0:
        return []
    count = num_cohorts(num_jobs, actors)
    bounds = [num_jobs * index // count for index in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(bounds)]
