"""Faults of a whole Ray session, each in a session of its own, since Ray reads its settings when it starts."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import torch

from fedsim.core.adapter import Tensors
from fedsim.core.events import RoundRow
from fedsim.core.sections import Failures
from fedsim.engine.driver import Driver
from fedsim.engine.plan import Plan
from fedsim.engine.pool import InlinePool
from fedsim.engine.ray_pool import RayPool
from fedsim.engine.resources import Actors
from fedsim.train.values import Trained
from tests.engine import fakes
from tests.faults import toys
from tests.faults.apart import Struck, make_client, result
from tests.faults.runs import Run, plan

TWO = Actors(num_actors=2, cpus=0.25, banks_per_actor=1)
MB = 1 << 20
STEP_MB, MOST_MB = 64, 8192  # what a hog takes at a time, and at most


class Trainer(Struck):
    """The bank "north" once eats memory, or keeps more than the object store and its disk can hold."""

    def before(self) -> None:
        if self.what == "hog" and not (self.folder / "eaten").exists():
            (self.folder / "eaten").touch()
            eaten = []
            for _ in range(MOST_MB // STEP_MB):
                eaten.append(np.ones(STEP_MB * MB // 8))
                time.sleep(0.05)

    def after(self, trained: Trained, kept: Tensors, strikes: bool) -> Trained:
        if not (strikes and self.what == "fill"):
            return trained
        outcome = trained.outcome
        return replace(trained, outcome=replace(outcome, kept={**outcome.kept, "big": torch.ones(300 * MB // 4)}))


def session(settings: Mapping[str, str], **options: Any) -> None:
    os.environ.update(settings)
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, **options)


def on_ray(
    folder: Path, what: str, failures: Failures | None = None, num_rounds: int = 2, store: bool = False
) -> dict[str, Any]:
    """A run on the session's two actors, beside the same inline, in which nothing happens."""
    inline = InlinePool(make_client(Trainer, folder, ""), Actors(banks_per_actor=1))
    reference = Run.of(plan(num_rounds=num_rounds), inline)
    pool = RayPool(ray.put(partial(make_client, Trainer, folder, what)), TWO)
    run = Run.of(stored(folder / "run") if store else plan(failures, num_rounds), pool)
    pool.close()
    ray.shutdown()
    return result(run, reference)


def stored(folder: Path) -> Plan:
    return replace(plan(), store=toys.store(folder))


def f26(folder: Path) -> dict[str, Any]:
    """The node's memory runs out, as Ray's monitor sees it."""
    threshold = psutil.virtual_memory().percent / 100 + 0.18
    session({"RAY_memory_usage_threshold": f"{threshold:.2f}", "RAY_memory_monitor_refresh_ms": "100"})
    return on_ray(folder, "hog")


def f29(folder: Path) -> dict[str, Any]:
    """The object store is full and so, as it seems to Ray, is the disk; later there is room, in another process."""
    session({"RAY_local_fs_capacity_threshold": "0.01"}, object_store_memory=100 * MB)
    found = on_ray(folder, "fill", store=True)
    committed = len(list((folder / "run" / "rounds").glob("[0-9]*")))
    inline = InlinePool(make_client(Trainer, folder, ""), Actors(banks_per_actor=1))
    resumed = Run.of(stored(folder / "run"), inline)
    reference = Run.of(stored(folder / "reference"), inline)
    return found | {"committed": committed, "resumed": result(resumed, reference)}


def f32(folder: Path) -> dict[str, Any]:
    """Calls between Ray's processes are lost or late."""
    lost = {"num_failures": 50, "req_failure_prob": 10, "resp_failure_prob": 10, "in_flight_failure_prob": 10}
    calls = {f"{prefix}CoreWorkerService.grpc_client.PushTask": lost for prefix in ("", "ray::rpc::")}
    late = "CoreWorkerService.grpc_server.PushTask=1000:200000"  # microseconds; Ray itself does not bear "*"
    session({"RAY_testing_rpc_failure": json.dumps(calls), "RAY_testing_asio_delay_us": late})
    return on_ray(folder, "", Failures(retries=50), num_rounds=10)


def f46(folder: Path, num_rounds: int = 500) -> dict[str, Any]:
    """What five hundred rounds leave behind in this process, in the object store and in the run directory."""
    session({})
    evaluation = replace(plan().evaluation, every=50)
    of = replace(plan(num_rounds=num_rounds), evaluation=evaluation, store=toys.store(folder / "run"))
    pool = RayPool(ray.put(fakes.make_client(of)), TWO)
    this, samples = psutil.Process(), []
    for event in Driver(of, pool).run():
        if isinstance(event, RoundRow) and event.round % 25 == 0:
            gc.collect()
            actors = [psutil.Process(slot.place[1]).memory_info().rss for slot in pool._slots._slots if slot.place]
            shared = psutil.disk_usage("/dev/shm").used
            samples.append((event.round, this.memory_info().rss, max(actors), this.num_fds(), shared))
    children = [child.status() for child in this.children(recursive=True)]
    pool.close()
    ray.shutdown()
    rounds, own, actors, fds, shared = np.array(samples[len(samples) // 4 :], dtype=float).T  # warm by then
    slope = [float(np.polyfit(rounds, values, 1)[0]) / 1024 for values in (own, actors)]
    return {
        "rounds": num_rounds,
        "driver_kb_per_round": slope[0],
        "actor_kb_per_round": slope[1],
        "fds": [float(fds[0]), float(fds[-1])],
        "shared_mb": [shared[0] / MB, shared[-1] / MB],
        "open_rounds": len(list((folder / "run" / "rounds").iterdir())),
        "zombies": children.count(psutil.STATUS_ZOMBIE),
    }


PROGRAMS = {"f26": f26, "f29": f29, "f32": f32, "f46": f46}
