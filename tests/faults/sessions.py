"""Faults of a whole Ray session, each in a session of its own, since Ray reads its settings when it starts.

``python -c "from tests.faults.sessions import main; main('f26', folder)"`` prints what happened as one line of JSON.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import torch

from fedsim.core.adapter import Tensors
from fedsim.core.events import RoundRow
from fedsim.core.messages import TrainJob
from fedsim.core.sections import Failures
from fedsim.engine.actor import ClientActor
from fedsim.engine.driver import Driver
from fedsim.engine.pool import InlinePool
from fedsim.engine.ray_pool import RayPool
from fedsim.engine.resources import Actors
from fedsim.train.values import Trained
from tests.engine import fakes
from tests.faults.runs import Run, plan

TWO = Actors(num_actors=2, cpus=0.25, banks_per_actor=1)
MB = 1 << 20
STEP_MB, MOST_MB = 64, 8192  # what a hog takes at a time, and at most


class Trainer(fakes.ToyTrainer):
    """In round 2 the bank "north" eats memory, or keeps more than the object store and its disk can hold."""

    def __init__(self, folder: Path, what: str) -> None:
        super().__init__(fakes.LocalRule(), None, private=True)
        self.folder, self.what = folder, what

    def _train(self, job: TrainJob, kept: Tensors) -> Trained:
        strikes = job.round == 1 and job.bank == "north"
        if strikes and self.what == "hog" and not (self.folder / "eaten").exists():
            (self.folder / "eaten").touch()
            eaten = []
            for _ in range(MOST_MB // STEP_MB):
                eaten.append(np.ones(STEP_MB * MB // 8))
                time.sleep(0.05)
        trained = super()._train(job, kept)
        if strikes and self.what == "fill":
            outcome = trained.outcome
            return replace(trained, outcome=replace(outcome, kept={**outcome.kept, "big": torch.ones(300 * MB // 4)}))
        return trained


@dataclass(frozen=True)
class MakeTrainer:
    folder: Path
    what: str

    def __call__(self) -> Trainer:
        return Trainer(self.folder, self.what)


def make_client(folder: Path, what: str) -> ClientActor:
    of = plan()
    return ClientActor(MakeTrainer(folder, what), of.rule, of.upload)


def session(settings: Mapping[str, str], **options: Any) -> None:
    os.environ.update(settings)
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, **options)


def result(run: Run, reference: Run) -> dict[str, Any]:
    return {
        "same": run.hash == reference.hash != "none",
        "same_ledger": run.ledger == reference.ledger,
        "failed": [(one.bank, one.round, one.attempt, one.cause, one.action) for one in run.failed],
        "messages": [one.message for one in run.failed],
        "error": None if run.error is None else [run.error.exit_code, str(run.error)],
    }


def on_ray(folder: Path, what: str, failures: Failures | None = None) -> dict[str, Any]:
    reference = Run.of(plan(), InlinePool(make_client(folder, ""), Actors(banks_per_actor=1)))
    pool = RayPool(ray.put(partial(make_client, folder, what)), TWO)
    run = Run.of(plan(failures), pool)
    pool.close()
    ray.shutdown()
    return result(run, reference)


def f26(folder: Path) -> dict[str, Any]:
    """The node's memory runs out, as Ray's monitor sees it."""
    threshold = psutil.virtual_memory().percent / 100 + 0.18
    session({"RAY_memory_usage_threshold": f"{threshold:.2f}", "RAY_memory_monitor_refresh_ms": "100"})
    return on_ray(folder, "hog")


def f29(folder: Path) -> dict[str, Any]:
    """The object store is full and so, as it seems to Ray, is the disk."""
    session({"RAY_local_fs_capacity_threshold": "0.01"}, object_store_memory=100 * MB)
    return on_ray(folder, "fill")


def f32(folder: Path) -> dict[str, Any]:
    """Calls between Ray's processes are lost or late."""
    lost = {"num_failures": 50, "req_failure_prob": 10, "resp_failure_prob": 10, "in_flight_failure_prob": 10}
    calls = {f"{prefix}CoreWorkerService.grpc_client.PushTask": lost for prefix in ("", "ray::rpc::")}
    settings = {"RAY_testing_rpc_failure": json.dumps(calls), "RAY_testing_asio_delay_us": "*=0:2000"}
    session(settings)
    return on_ray(folder, "")


def f46(folder: Path, num_rounds: int = 500) -> dict[str, Any]:
    """What five hundred rounds leave behind in this process and in the object store."""
    session({})
    of = replace(plan(num_rounds=num_rounds), evaluation=replace(plan().evaluation, every=50))
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
        "zombies": children.count(psutil.STATUS_ZOMBIE),
    }


FAULTS: dict[str, Callable[[Path], dict[str, Any]]] = {"f26": f26, "f29": f29, "f32": f32, "f46": f46}


def main(name: str, folder: str) -> None:
    sys.stdout.write(json.dumps(FAULTS[name](Path(folder))) + "\n")
