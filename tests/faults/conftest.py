"""Runs into which faults are planted. Every test asserts the adapter's hash or the ledger, and has a control."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from fedsim.core.sections import Failures
from fedsim.engine.ray_pool import RayPool
from fedsim.engine.resources import Actors
from tests.engine import fakes
from tests.faults.runs import Run, plan


@pytest.fixture(scope="session")
def reference() -> Run:
    """The run in which nothing fails, inline."""
    return Run.inline(plan(), None)


@pytest.fixture(scope="session")
def ray_faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def ray_pool(ray_session: Actors, ray_faults: Path) -> Iterator[RayPool]:
    """Two actors, one bank a call, whichever processes they are by now."""
    actors = replace(ray_session, banks_per_actor=1)
    with closing(RayPool(ray.put(fakes.make_client(plan(), ray_faults)), actors)) as pool:
        yield pool


@pytest.fixture
def on_ray(ray_pool: RayPool, ray_faults: Path) -> Iterator[Callable[..., Run]]:
    """``on_ray(Failures(...))``: a run on the two actors. Faults are planted in ``on_ray.faults``."""

    def run(failures: Failures | None = None) -> Run:
        return Run.of(plan(failures or Failures()), ray_pool)

    yield run
    for planted in ray_faults.iterdir():
        planted.unlink()
