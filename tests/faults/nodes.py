"""Faults of nodes, each on a cluster of its own: a head for the driver, and nodes of one CPU for actors."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
from ray.cluster_utils import Cluster

from fedsim.core.adapter import Tensors
from fedsim.core.events import Waiting
from fedsim.core.sections import Failures
from fedsim.engine import slots
from fedsim.engine.pool import InlinePool
from fedsim.engine.ray_pool import RayPool
from fedsim.engine.resources import Actors
from fedsim.train.values import Trained
from tests.faults.apart import Struck, make_client, result
from tests.faults.runs import Run, plan

BIG = 50_000  # floats: too much to travel inside a reply, so that it lies in the object store of its node


class Trainer(Struck):
    """Every bank keeps something big; "north" once does something to the raylet of its node."""

    def before(self) -> None:
        if not (self.folder / "pid").exists():
            (self.folder / "pid").write_text(str(os.getpid()))
            STRIKES[self.what](self.folder)

    def after(self, trained: Trained, kept: Tensors, strikes: bool) -> Trained:
        count = kept.get("big", torch.zeros(BIG)) + 1
        outcome = replace(trained.outcome, kept={**trained.outcome.kept, "big": count})
        return replace(trained, outcome=outcome, oracle={**trained.oracle, "big": float(count.mean())})


def kill_raylet(folder: Path) -> None:
    """And go on, as an orphan would, if it is not ended at once: one line every tenth of a second, for a minute."""
    (folder / "orphan").write_text(f"{time.time()}\n")
    os.kill(os.getppid(), signal.SIGKILL)
    for _ in range(600):
        with (folder / "orphan").open("a") as log:
            log.write(f"{time.time()}\n")
        time.sleep(0.1)


def stop_raylet(folder: Path) -> None:
    """Stop it, have it go on 12 s from now, and hang."""
    raylet = os.getppid()
    os.kill(raylet, signal.SIGSTOP)
    subprocess.Popen(["sh", "-c", f"sleep 12; kill -CONT {raylet}"], start_new_session=True)
    time.sleep(600)


STRIKES: dict[str, Callable[[Path], None]] = {"kill": kill_raylet, "stop": stop_raylet}


@contextmanager
def nodes(number: int) -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(number):
            cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def on_nodes(
    number: int, actors: int, folder: Path, what: str, failures: Failures, num_rounds: int = 3
) -> dict[str, Any]:
    """The run, and the same inline; with the number of nodes, actors and what is done to a raylet."""
    reference = Run.of(
        plan(num_rounds=num_rounds), InlinePool(make_client(Trainer, folder, ""), Actors(banks_per_actor=1))
    )
    size = Actors(num_actors=actors, cpus=1, banks_per_actor=1)
    with nodes(number):
        pool = RayPool(ray.put(partial(make_client, Trainer, folder, what)), size)
        start = time.monotonic()
        run = Run.of(plan(failures, num_rounds=num_rounds), pool)
        seconds = time.monotonic() - start
        pool.close()
    waited = [event.message for event in run.events if isinstance(event, Waiting)]
    return result(run, reference) | {
        "waited": waited,
        "seconds": seconds,
        "pid_alive": psutil.pid_exists(int((folder / "pid").read_text())),
        "big": [bank.oracle.get("big") for bank in run.rows[-1].banks] if run.rows else [],
    }


def f03(folder: Path) -> dict[str, Any]:
    killed = on_nodes(2, 2, folder, "kill", Failures())
    lines = [float(line) for line in (folder / "orphan").read_text().split()]
    return killed | {"orphan_s": lines[-1] - lines[0]}


def f04(folder: Path) -> dict[str, Any]:
    return on_nodes(2, 2, folder, "stop", Failures(deadline_s=3.0))


def f05(folder: Path) -> dict[str, Any]:
    slots.PLACEMENT_S, slots.TELL_S = 25.0, 10.0
    return on_nodes(1, 1, folder, "kill", Failures())


PROGRAMS = {"f03": f03, "f04": f04, "f05": f05}
