"""F1: SIGKILL of an actor in the middle of a bank's work. F27: the kernel's OOM killer does the same."""

from __future__ import annotations

import time

import pytest

from fedsim.core.errors import QuorumError
from fedsim.core.sections import Failures
from tests.engine import fakes

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(
    "action", ["kill@return", *(pytest.param(phase, marks=pytest.mark.slow) for phase in ("kill", "kill@noise"))]
)
def test_the_bank_is_tried_again_with_the_same_bits(on_ray, ray_faults, reference, action) -> None:
    fakes.plant(ray_faults, 1, "north", action)
    run = on_ray()
    assert run.hash == reference.hash
    assert run.ledger == reference.ledger, "the answer that came is charged once"
    assert [(one.bank, one.round, one.attempt, one.cause, one.action) for one in run.failed] == [
        ("north", 2, 1, "died", "retry")
    ]
    assert "for want of memory" in run.failed[0].remedy


def test_control_without_retries_the_run_ends(on_ray, ray_faults, reference) -> None:
    fakes.plant(ray_faults, 1, "north", "kill")
    start = time.monotonic()
    run = on_ray(Failures(policy="abort"))
    assert isinstance(run.error, QuorumError)
    assert run.hash != reference.hash
    assert time.monotonic() - start < 20
