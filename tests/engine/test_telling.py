"""A round is measured while the next one trains: the same rows in the same order, whenever a driver ends in between."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import ray

from fedsim.core.errors import FedsimError
from fedsim.core.events import BankDone, Failed, RoundRow, Waiting
from fedsim.core.sections import Failures
from fedsim.engine.actor import ClientActor
from fedsim.engine.calls import Broken, Call, Done
from fedsim.engine.driver import Driver
from fedsim.engine.failures import Cause, Decided
from fedsim.engine.plan import Plan
from fedsim.engine.pool import Answer, InlinePool, Kept, Partial, Scored, Scoring
from fedsim.engine.ray_pool import RayPool, _scored_first
from fedsim.engine.resources import Actors
from fedsim.engine.transport import Delivery
from fedsim.strategies.base import LocalRule
from fedsim.train.values import EvalJob, Scores
from tests.engine import fakes
from tests.faults import toys


def rows(events: Iterable[object]) -> list[RoundRow]:
    return [replace(one, seconds=0.0) for one in events if isinstance(one, RoundRow)]


def done(method: str, key: int, nodes: object = None) -> Done:
    return Done(Call("", method, (), key=key), ([], nodes, []) if method == "train" else None, [], 0.0)


def test_answers_of_training_wait_for_those_of_scoring() -> None:
    results = [
        done("train", 1),
        done("evaluate", 1),
        Broken(Call("", "train", ()), Cause("died", "")),
        done("train", 2),
    ]
    results += [Broken(Call("", "evaluate", ()), Cause("died", "")), done("evaluate_own", 2), done("train", 3)]
    order = [(one.call.method, one.call.key) for one in _scored_first(iter(results), 2) if not isinstance(one, Partial)]
    assert order == [(results[place].call.method, results[place].call.key) for place in (1, 4, 5, 0, 2, 3, 6)]
    keys = [one.call.key for one in _scored_first(iter(results[2:4]), 0) if not isinstance(one, Partial)]
    assert keys == [0, 2], "nothing is held back where nothing is scored"


def test_sums_do_not_wait() -> None:
    """The driver would hold as many as there are calls."""
    results = [done("train", 1, {"a sum": 1}), done("evaluate", 1)]
    assert [type(one) for one in _scored_first(iter(results), 1)] == [Partial, Done, Done]


def test_a_score_that_never_comes_is_an_error_and_not_a_row_left_out() -> None:
    class Forgets(InlinePool):
        def score(self, asked: Scoring) -> Iterator[Scored]:
            yield from list(super().score(asked))[1:]

    plan = fakes.plan()
    with pytest.raises(FedsimError, match="1 scores did not come; round 0 is not measured"):
        list(Driver(plan, Forgets(fakes.make_client(plan)(), Actors())).run())


@dataclass(frozen=True)
class SlowToMeasure:
    """A client that takes its time over a score and leaves a file that says when."""

    rule: LocalRule
    folder: Path

    def __call__(self) -> ClientActor:
        return ClientActor(lambda: Slow(self.rule, self.folder), self.rule, fakes.plan().upload)


class Slow(fakes.ToyTrainer):
    def __init__(self, rule: LocalRule, folder: Path) -> None:
        super().__init__(rule, None, True)
        self.folder = folder

    def evaluate(self, jobs: Sequence[EvalJob]) -> list[Scores]:
        start = time.time()
        time.sleep(0.5)
        (self.folder / f"{start}").write_text(f"{time.time()}")
        return super().evaluate(jobs)


@pytest.mark.ray
def test_a_round_trains_while_the_one_before_is_measured(ray_session: Actors, tmp_path: Path) -> None:
    plan = fakes.plan()
    plan = replace(plan, evaluation=replace(plan.evaluation, every=1))
    with closing(RayPool(ray.put(SlowToMeasure(plan.rule, tmp_path)), replace(ray_session, num_actors=2))) as pool:
        events = list(Driver(plan, pool).run())
    told = [(type(one), one.round) for one in events if isinstance(one, RoundRow | BankDone)]
    assert told == [(RoundRow, 0), *((kind, n) for n in (1, 2, 3) for kind in (*[BankDone] * 3, RoundRow))]
    measured = [(float(file.name), float(file.read_text())) for file in tmp_path.iterdir()]
    trained = [one.work.start for one in events if isinstance(one, BankDone) and one.work is not None]
    assert sum(any(start < moment < end for moment in trained) for start, end in measured) == 3, "all but the last"
    rows, expected = (
        [replace(e, seconds=0.0) for e in run if isinstance(e, RoundRow)] for run in (events, fakes.inline(plan))
    )
    assert rows == expected


class Stops(InlinePool):
    """Its process ends after so many scores, before the round that is measured is told."""

    scores = 0

    def score(self, asked: Scoring) -> Iterator[Scored]:
        if not self.scores:
            raise SystemExit
        self.scores -= 1
        yield from super().score(asked)


class Counts(InlinePool):
    """Notes the rounds (from 0) that it trains and how often it scores."""

    def __init__(self, client: ClientActor) -> None:
        super().__init__(client, Actors())
        self.trained: list[int] = []
        self.scored = 0

    def score(self, asked: Scoring) -> Iterator[Scored]:
        self.scored += 1
        yield from super().score(asked)

    def train(
        self,
        deliveries: Sequence[Delivery],
        kept: Sequence[Kept],
        failures: Failures,
        decided: Decided,
        first: Scoring | None = None,
    ) -> Iterator[Scored | Partial | Answer | Failed | Waiting]:
        self.trained.append(deliveries[0].to.round)
        return super().train(deliveries, kept, failures, decided, first)


def each_measured(folder: Path) -> Plan:
    plan = toys.plan(folder)
    return replace(plan, evaluation=replace(plan.evaluation, every=1))


@pytest.mark.parametrize("scores", [0, 1, 2, 3])
def test_a_committed_round_that_was_not_measured_is_measured_and_not_trained_again(tmp_path: Path, scores: int) -> None:
    reference = toys.run(each_measured(tmp_path / "reference"))
    plan = each_measured(tmp_path / "run")
    pool = Stops(fakes.make_client(plan)(), Actors())
    pool.scores = scores
    told = []
    with pytest.raises(SystemExit):
        told.extend(Driver(plan, pool).run())
    plan = each_measured(tmp_path / "run")
    after = Counts(fakes.make_client(plan)())
    events = list(Driver(plan, after).run())
    assert rows(events) == rows(reference)
    assert after.trained == list(range(scores, 3)), "the round that was to be measured is not among them"
    assert after.scored == 4 - scores
    assert toys.hashes(tmp_path / "run") == toys.hashes(tmp_path / "reference")
    assert toys.charged(tmp_path / "run") == toys.charged(tmp_path / "reference")


def test_a_run_that_is_told_again_measures_nothing(tmp_path: Path) -> None:
    first = toys.run(each_measured(tmp_path / "run"))
    plan = each_measured(tmp_path / "run")
    pool = Counts(fakes.make_client(plan)())
    assert rows(list(Driver(plan, pool).run())) == rows(first)
    assert (pool.trained, pool.scored) == ([], 0)


def life(plan: Plan, until: int) -> list[RoundRow]:
    """The rows of a life that ends when a round has been told."""
    told, events = [], Driver(plan, InlinePool(fakes.make_client(plan)(), Actors())).run()
    for event in events:
        told += [event] if isinstance(event, RoundRow) else []
        if told and told[-1].round == until:
            break
    events.close()
    return told


def measured_at_the_ends(folder: Path, num_rounds: int, **how: bool) -> Plan:
    plan = toys.plan(folder, num_rounds, **how)
    return replace(plan, evaluation=replace(plan.evaluation, every=0))


def test_a_round_that_turns_out_to_be_the_last_is_measured(tmp_path: Path) -> None:
    """``num_rounds`` is lowered to what was done."""
    reference = toys.run(measured_at_the_ends(tmp_path / "reference", 2))
    told = life(measured_at_the_ends(tmp_path / "run", 4), until=2)
    assert not told[-1].metrics
    for _ in range(2):  # it stays so
        events = toys.run(measured_at_the_ends(tmp_path / "run", 2))
        same = [replace(row, num_rounds=2, banks=()) for row in rows(events)]
        assert [replace(row, num_rounds=2, banks=()) for row in rows(reference)] == same
        assert rows(events)[-1].banks == rows(reference)[-1].banks
        assert events[-1].summary["metrics"] == reference[-1].summary["metrics"]  # type: ignore[attr-defined]


def test_a_round_made_again_is_told_as_it_was_charged_again(tmp_path: Path) -> None:
    """Its files are damaged, it is made again with other versions, which charges again, and ends before it is told."""
    first = life(each_measured(tmp_path / "run"), until=2)
    (tmp_path / "run" / "rounds" / "000002" / "server.safetensors").write_bytes(b"")
    plan = each_measured(tmp_path / "run")
    assert plan.store is not None
    plan = replace(plan, store=replace(plan.store, surroundings="other versions"))
    with pytest.raises(SystemExit):
        list(Driver(plan, Stops(fakes.make_client(plan)(), Actors())).run())
    again = life(plan, until=2)
    assert again[:2] == first[:2]
    assert again[2].epsilon > first[2].epsilon
    assert again[2].metrics == first[2].metrics
