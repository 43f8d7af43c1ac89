"""F24: a straggler. F25: a bank's work that never returns and ignores SIGTERM. F28: a GPU is out of memory."""

from __future__ import annotations

import os
import time
from collections import deque
from statistics import median
from typing import ClassVar

import psutil
import pytest
import torch

from fedsim.core.errors import ResourceError
from fedsim.core.sections import Failures
from fedsim.engine import slots
from fedsim.engine.actor import reported
from fedsim.engine.calls import Call, Done
from fedsim.engine.failures import Cause
from fedsim.engine.ray_pool import SAMPLES, RayPool
from fedsim.engine.resources import Actors
from tests.engine import fakes
from tests.faults.runs import Run, plan


def pids(pool: RayPool) -> set[int]:
    return {slot.place[1] for slot in pool._slots._slots if slot.place is not None}


@pytest.mark.ray
def test_a_hanging_process_is_ended_and_its_bank_tried_again(on_ray, ray_faults, reference) -> None:
    fakes.plant(ray_faults, 1, "north", "hang")
    start = time.monotonic()
    run = on_ray(Failures(deadline_s=3.0))
    assert time.monotonic() - start < 60, "one deadline and one new process more than without"
    assert [(one.bank, one.attempt, one.cause, one.action) for one in run.failed] == [("north", 1, "late", "retry")]
    assert run.failed[0].message == "no answer within 3 s"
    assert run.hash == reference.hash
    assert run.ledger == reference.ledger, "what it would have answered is not counted"
    assert not psutil.pid_exists(int((ray_faults / "pid").read_text()))


@pytest.mark.ray
def test_control_without_a_deadline_a_straggler_is_waited_for(on_ray, ray_faults, reference) -> None:
    fakes.plant(ray_faults, 1, "north", "slow@return")
    run = on_ray()
    assert not run.failed
    assert run.hash == reference.hash


@pytest.mark.ray
def test_a_process_that_ran_out_of_gpu_memory_is_not_used_again(on_ray, ray_pool, ray_faults, reference) -> None:
    fakes.plant(ray_faults, 0, "east", "gpu")
    before = pids(ray_pool)
    run = on_ray()
    assert [(one.bank, one.cause, one.action) for one in run.failed] == [("east", "out_of_gpu_memory", "retry")]
    assert "lower train.max_rows" in run.failed[0].remedy
    assert run.hash == reference.hash
    list(ray_pool.ready())
    assert len(pids(ray_pool) & before) == 1


@pytest.mark.ray
def test_control_a_process_that_is_not_thought_spoilt_is_used_again(on_ray, ray_pool, ray_faults, monkeypatch) -> None:
    fakes.plant(ray_faults, 0, "east", "gpu")
    monkeypatch.setattr(Cause, "spoils_process", False)
    before = pids(ray_pool)
    assert len(on_ray().failed) == 1
    list(ray_pool.ready())
    assert pids(ray_pool) == before


@pytest.mark.gpu
def test_what_a_gpu_raises_is_understood() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    _, num_bytes = torch.cuda.mem_get_info()
    with pytest.raises(ResourceError, match=r"^round 1: out of GPU memory; lower train\.max_rows"), reported("round 1"):
        torch.empty(2 * num_bytes, dtype=torch.uint8, device="cuda")


def test_gpu_memory_that_never_suffices_ends_the_run_with_its_own_code(tmp_path) -> None:
    fakes.plant(tmp_path, 0, "east", "gpu", times=3)
    run = Run.inline(plan(), tmp_path)
    assert isinstance(run.error, ResourceError)
    assert [one.attempt for one in run.failed] == [1, 2, 3]


class Limited(RayPool):
    """A pool of no actors, for its deadlines alone."""

    def __init__(self, took: list[float]) -> None:
        self._slots = slots.Slots.__new__(slots.Slots)
        self._slots.took = {"train": took}


def test_a_deadline_follows_the_median_once_there_are_attempts_to_go_by() -> None:
    took = [2.0, 3.0, 50.0]
    of_median = Failures(deadline_factor=4.0)
    assert Limited(took)._limit(of_median)("train") == 4 * median(took)
    assert Limited(took)._limit(of_median)("evaluate") is None
    assert Limited(took[: SAMPLES - 1])._limit(of_median)("train") is None
    assert Limited(took)._limit(Failures(deadline_s=7.0))("train") == 7.0
    assert Limited(took)._limit(Failures())("train") is None


def test_a_process_that_survives_ray_s_kill_is_killed_by_its_id(monkeypatch) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # it holds the pipe until it dies
        os.close(reader)
        time.sleep(60)
        os._exit(0)
    os.close(writer)
    slot = slots._Slot(slots.State.SUSPECT, None, None, None, time.monotonic(), process=psutil.Process(child))
    try:
        assert not slots._gone(slot), "it is given time"
        monkeypatch.setattr(slots, "END_S", 0.0)
        slots._gone(slot)
        assert os.read(reader, 1) == b"", "it has ended"
        assert slots._gone(slot), "a zombie is as good as gone"
    finally:
        os.close(reader)
        os.waitpid(child, 0)


class Handle:
    """An actor of no process: each method's result is there so many seconds after it was asked for."""

    SECONDS: ClassVar[dict[str, float]] = {"train": 0.1, "evaluate": 0.02}

    def __getattr__(self, name: str) -> Handle:
        self._asked = name
        return self

    def options(self, **_: object) -> Handle:
        return self

    def remote(self, *_: object) -> tuple[float, str, object]:
        return time.monotonic() + self.SECONDS.get(self._asked, 0.0), self._asked, object()


def wait(refs, num_returns=1, timeout=0.0):
    """``ray.wait`` of such results."""
    until = time.monotonic() + timeout
    while True:
        ready = [ref for ref in refs if ref[0] <= time.monotonic()][:num_returns]
        if ready or time.monotonic() > until:
            return ready, []
        time.sleep(0.002)


def test_what_was_answered_while_the_driver_was_busy_is_not_late(monkeypatch) -> None:
    """As when it measures a round whose successor is in training."""
    monkeypatch.setattr(slots.ray, "wait", wait)
    monkeypatch.setattr(slots.ray, "get", lambda ref: ("node", 0) if ref[1] == "where" else None)
    monkeypatch.setattr(slots, "_process", lambda node, pid: None)
    four = slots.Slots(Handle, Actors(num_actors=4, gpus=1.0), [])
    list(four.ready())
    queue = deque([Call("", "evaluate", ()), *(Call("", "train", (), key=number) for number in range(3))])
    told = []
    for result in four.serve(queue, lambda method: 0.3 if method == "train" else None):
        told.append(type(result))
        if len(told) == 1:
            time.sleep(0.5)
    assert told == [Done] * 4
