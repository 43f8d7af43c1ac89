"""F7: SIGKILL of the driver's process. Another goes on from the last commit under a new epoch, once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError

from fedsim.core.errors import CheckpointError, FedsimError
from fedsim.core.events import Event, Started
from fedsim.core.messages import Exchange, ServerState
from fedsim.engine.actor import ClientActor
from fedsim.engine.driver import Driver
from fedsim.engine.plan import Plan
from fedsim.engine.pool import InlinePool
from fedsim.engine.remote import RemoteDriver
from fedsim.engine.resources import Actors
from fedsim.strategies.base import Strategy
from fedsim.strategies.fedavg import FedAvg
from tests.engine import fakes
from tests.faults import toys
from tests.faults.runs import Run


class Deadly(FedAvg):
    """Its server half kills its own process in round 2, as often as there are files in the folder."""

    def __init__(self, inner: Strategy, folder: Path) -> None:
        super().__init__(inner.config)
        self.folder = folder

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        for bullet in sorted(self.folder.iterdir())[:1] if state.round == 1 else ():
            bullet.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().aggregate(state, exchanges)


def deadly(plan: Plan, folder: Path, times: int) -> Plan:
    folder.mkdir()
    for number in range(times):
        (folder / str(number)).touch()
    return replace(plan, strategy=Deadly(plan.strategy, folder))


class Mortal(RemoteDriver):
    """Drivers in this process, each of which dies after as many events as are given."""

    def __init__(self, *lives: int) -> None:
        super().__init__()
        self.lives = list(lives)

    def _life(self, plan: Plan, make_client: Callable[[], ClientActor], actors: Actors) -> Iterator[Event]:
        events = Driver(plan, InlinePool(make_client(), actors)).run()
        yield from islice(events, self.lives.pop(0))
        if next(events, None) is not None:
            raise ActorDiedError


def told(driver: RemoteDriver, plan: Plan, size: Actors) -> Run:
    run = Run([], {})
    with closing(driver):
        try:
            for event in driver.events(plan, fakes.make_client(plan), size):
                run.events.append(event)
        except FedsimError as error:
            run.error = error
    return run


def assert_same(run: Run, plan: Plan, folder: Path) -> None:
    """As a run that nobody killed, and whoever wrote before is fenced off."""
    reference = toys.run(toys.plan(folder / "reference"))
    assert run.error is None
    assert run.hash == Run(reference, {}).hash != "none"
    assert toys.hashes(folder / "run") == toys.hashes(folder / "reference")
    assert toys.charged(folder / "run") == toys.charged(folder / "reference")
    assert [row.round for row in run.rows] == [0, 1, 2, 3], "each is told once"
    assert plan.store is not None
    with pytest.raises(CheckpointError, match="another process has taken over"):
        plan.store.fence()


@pytest.mark.parametrize("events", [0, 1, 2, 4, 5, 7, 10])
def test_another_driver_goes_on_to_the_same_bits(tmp_path: Path, events: int) -> None:
    plan = toys.plan(tmp_path / "run")
    assert_same(told(Mortal(events, 1000), plan, Actors()), plan, tmp_path)


def test_control_a_second_death_ends_the_run(tmp_path: Path) -> None:
    run = told(Mortal(4, 4), toys.plan(tmp_path / "run"), Actors())
    assert run.error is not None
    assert run.error.exit_code == 70
    assert "the driver process died twice" in str(run.error)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_same_with_a_process_that_is_killed(ray_session: Actors, tmp_path: Path) -> None:
    plan = deadly(toys.plan(tmp_path / "run"), tmp_path / "bullets", 1)
    run = told(RemoteDriver(), plan, replace(ray_session, num_actors=1))
    assert_same(run, plan, tmp_path)
    started = [event for event in run.events if isinstance(event, Started)]
    assert "Resumed after round 1 of 3." in started[1].notes
