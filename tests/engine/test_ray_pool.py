"""Ray actors give the bits of the inline pool, whatever dies on the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray

from fedsim.codecs import pipeline
from fedsim.core.errors import FedsimError, ModelError, QuorumError
from fedsim.core.events import BankDone, Finished, RoundRow, Served, Started
from fedsim.engine.driver import Driver
from fedsim.engine.plan import Plan
from fedsim.engine.ray_pool import RayPool
from fedsim.engine.remote import RemoteDriver
from fedsim.engine.resources import Actors
from fedsim.strategies.base import LocalRule
from tests.engine import fakes

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def plan() -> Plan:
    """All that might differ between places: private state, error feedback, a lossy download, sampled banks."""
    feedback = pipeline([("topk", {"density": 0.5, "error_feedback": True})])
    return fakes.plan(fakes.Personal(), client_fraction=0.7, upload=feedback, download=pipeline([("affine", {})]))


@pytest.fixture(scope="module")
def reference(plan: Plan) -> list[object]:
    """The events of the run in this process."""
    return list(fakes.inline(plan))


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def pool(plan: Plan, faults: Path, ray_session: Actors) -> Iterator[RayPool]:
    """Two actors, whichever process they are by now."""
    with closing(RayPool(ray.put(fakes.make_client(plan, faults)), ray_session)) as pool:
        yield pool


def assert_same_run(events: list[object], reference: list[object]) -> None:
    """The same adapter bits, and everything measured is equal but for the time it took."""
    left, right = (next(e for e in run if isinstance(e, Served)).adapter for run in (events, reference))
    assert fakes.same(left.tensors, right.tensors)
    rows, expected = ([replace(e, seconds=0.0) for e in run if isinstance(e, RoundRow)] for run in (events, reference))
    assert rows == expected


def second_round(reference: list[object]) -> list[str]:
    return [event.bank for event in reference if isinstance(event, BankDone) and event.round == 2]


def test_two_actors_give_the_same_bits_and_never_show_what_banks_keep(
    plan: Plan, reference: list[object], pool: RayPool
) -> None:
    driver = Driver(plan, pool)
    assert_same_run(list(driver.run()), reference)
    assert set(driver.kept) == {event.bank for event in reference if isinstance(event, BankDone)}
    assert all(isinstance(kept, ray.ObjectRef) for kept in driver.kept.values())


def test_a_driver_actor_with_one_client_gives_the_same_bits(
    plan: Plan, reference: list[object], ray_session: Actors
) -> None:
    with closing(RemoteDriver()) as driver:
        events = list(driver.events(plan, fakes.make_client(plan), replace(ray_session, num_actors=1)))
    assert_same_run(events, reference)
    assert isinstance(events[-1], Finished)
    assert sum(isinstance(event, BankDone) for event in events) == 2 * 3


def test_banks_that_keep_nothing_leave_nothing_to_ask_for(ray_session: Actors) -> None:
    plan = fakes.plan(LocalRule())
    with closing(RayPool(ray.put(fakes.make_client(plan)), replace(ray_session, num_actors=1))) as pool:
        driver = Driver(plan, pool)
        done = [event for event in driver.run() if isinstance(event, BankDone) and event.round == 1]
    assert set(driver.kept.values()) == {None}
    assert len(done) == len(fakes.BANKS)
    assert sorted(event.more for event in done) == [False, False, True], "cohorts of one and two banks"
    assert not done[-1].more


def test_the_actors_of_one_run_play_the_next_with_the_same_bits(
    plan: Plan, reference: list[object], ray_session: Actors, tmp_path: Path
) -> None:
    other = fakes.plan(num_rounds=2)
    two, one = ray_session, replace(ray_session, num_actors=1)
    made = fakes.NotesPid(fakes.make_client(plan), tmp_path)
    with closing(RemoteDriver()) as driver:
        assert_same_run(list(driver.events(plan, made, two)), reference)
        first = {file.name for file in tmp_path.iterdir()}
        assert_same_run(
            list(driver.events(other, fakes.NotesPid(fakes.make_client(other), tmp_path), one)),
            list(fakes.inline(other)),
        )
        assert_same_run(list(driver.events(plan, made, two)), reference)
    assert len(first) == 2
    assert {file.name for file in tmp_path.iterdir()} == first, "no other process has made a client"


def test_a_killed_actor_is_replaced_and_its_job_repeated(
    plan: Plan, reference: list[object], pool: RayPool, faults: Path
) -> None:
    fakes.plant(faults, 1, second_round(reference)[0], "kill")
    events = list(Driver(plan, pool).run())
    assert not list(faults.iterdir()), "the fault has struck"
    assert_same_run(events, reference)


@pytest.mark.parametrize(
    ("action", "error", "text"),
    [
        ("bug", FedsimError, "ValueError: a bug in a plug-in"),
        ("exit", FedsimError, "SystemExit: 3"),
        ("model", ModelError, "no weights"),
    ],
)
def test_an_exception_in_a_job_names_bank_round_and_seed(
    plan: Plan, reference: list[object], pool: RayPool, faults: Path, action: str, error: type[FedsimError], text: str
) -> None:
    bank = second_round(reference)[1]
    fakes.plant(faults, 1, bank, action)
    with pytest.raises(error) as caught:
        list(Driver(plan, pool).run())
    assert type(caught.value) is error
    message = str(caught.value)
    assert message.startswith(f"round 2, bank '{bank}' (seed ")
    assert message.endswith(f"): {text}")
    assert "in strike" in caught.value.__notes__[0], "the traceback travels with it"


def test_a_bank_whose_actor_always_dies_is_named(
    plan: Plan, reference: list[object], pool: RayPool, faults: Path
) -> None:
    bank = second_round(reference)[0]
    fakes.plant(faults, 1, bank, "kill", times=3)
    died = rf"round 2, bank '{bank}' .*, attempt 3: died: process \d+ on"
    with pytest.raises(QuorumError, match=died):
        list(Driver(plan, pool).run())
    assert not list(faults.iterdir()), "two retries"


def test_a_model_that_cannot_be_loaded_is_reported_as_such(ray_session: Actors) -> None:
    refused = pytest.raises(ModelError, match="loading the base model: target_modules match nothing")
    with closing(RayPool(ray.put(fakes.Unloadable()), replace(ray_session, num_actors=1))) as pool, refused:
        list(pool.ready())


def test_an_actor_that_dies_while_loading_is_replaced(ray_session: Actors, tmp_path: Path) -> None:
    plan = fakes.plan(num_rounds=0)
    make_client = ray.put(fakes.DiesLoading(fakes.make_client(plan), tmp_path / "died"))
    with closing(RayPool(make_client, replace(ray_session, num_actors=1))) as pool:
        list(pool.ready())
        assert (tmp_path / "died").exists()
        assert fakes.same(pool.new_adapter(plan.seed).tensors, fakes.MakeToy()().new_adapter(plan.seed).tensors)


def test_an_abandoned_run_leaves_no_actor(plan: Plan, ray_session: Actors, tmp_path: Path) -> None:
    for bank in fakes.BANKS:
        fakes.plant(tmp_path, 0, bank, "hang")
    driver = RemoteDriver()
    events = driver.events(plan, fakes.make_client(plan, tmp_path), replace(ray_session, num_actors=1))
    assert isinstance(next(events), Started)
    fakes.wait_until((tmp_path / "pid").exists)
    client = psutil.Process(int((tmp_path / "pid").read_text()))
    events.close()
    fakes.wait_until(lambda: not client.is_running())
