"""Making Ray actors and ending them. Importing this costs Ray and no torch."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def start(cls: type, cpus: float, gpus: float, *args: Any, here: bool = False) -> Any:
    """The only use of ``ray.remote``: a handle to an actor that Ray neither restarts nor repeats calls of.

    ``here``: on the node of the process that asks, or not at all.
    """
    where = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False) if here else "DEFAULT"
    actor = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_task_retries=0, scheduling_strategy=where)(cls)
    return actor.remote(*args)


def kill(handle: Any) -> None:
    """End an actor's process now. Without a Ray session there is none left, and ``ray.kill`` would start a session."""
    if ray.is_initialized():
        ray.kill(handle)
