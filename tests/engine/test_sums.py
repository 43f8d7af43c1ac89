"""Sums near the data: the same bits whoever adds what, the mean of algorithms.md 0.1, and when updates come alone."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.codecs import pipeline
from fedsim.core.adapter import Tensors
from fedsim.core.errors import FedsimError
from fedsim.core.events import Failed, RoundRow, Served
from fedsim.core.messages import TrainJob, Update
from fedsim.core.sections import Failures
from fedsim.engine.driver import Driver, uplink
from fedsim.engine.plan import Plan
from fedsim.engine.pool import Answer, InlinePool, Partial
from fedsim.engine.resources import Actors
from fedsim.engine.sums import SLOTS, Summand, Tree, mean, term
from fedsim.engine.transport import Downlink, Reply
from fedsim.engine.uplink import Received
from tests.engine import fakes


def values(count: int) -> list[Tensors]:
    draws = torch.Generator().manual_seed(3)
    return [{"x": torch.randn(5, generator=draws, dtype=torch.float64) * 1e9 ** (k % 3)} for k in range(count)]


def total(terms: dict[int, Tensors], groups: list[list[int]]) -> Tensors:
    """Of terms that are added up in groups first, as calls are."""
    whole = Tree()
    for group in groups:
        part = Tree()
        for place in group:
            part.add((0, place), terms[place])
        for node, tensors in part.nodes.items():
            whole.add(node, tensors)
    return whole.total()


def test_the_sum_is_a_binary_tree_in_bank_order() -> None:
    a, b, c, d, e = (one["x"] for one in values(5))
    terms = {place: {"x": tensor} for place, tensor in enumerate((a, b, c, d, e))}
    assert torch.equal(total(terms, [[0, 1, 2, 3, 4]])["x"], ((a + b) + (c + d)) + e)
    del terms[2]  # it failed
    assert torch.equal(total(terms, [[0, 1, 3, 4]])["x"], ((a + b) + d) + e)
    assert torch.equal(total({4: terms[4]}, [[4]])["x"], e)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32))
def test_the_sum_has_the_same_bits_however_banks_are_grouped_and_whoever_is_first(count: int, seed: int) -> None:
    rng = Random(seed)
    terms = dict(enumerate(values(count)))
    there = [place for place in terms if rng.random() < 0.8] or [0]
    groups: list[list[int]] = [[] for _ in range(rng.randint(1, count))]
    for place in there:
        rng.choice(groups).append(place)
    rng.shuffle(groups)
    assert torch.equal(total(terms, groups)["x"], total(terms, [there])["x"])


def test_few_nodes_are_kept() -> None:
    tree = Tree()
    for place, one in enumerate(values(1000)):
        tree.add((0, place), one)
        assert len(tree.nodes) <= 10


def test_identical_updates_have_their_own_mean() -> None:
    draws = torch.Generator().manual_seed(1)
    delta, slots = {"a": torch.randn(100, generator=draws)}, {"c": torch.randn(7, generator=draws)}
    tree, weights = Tree(), [7.0, 1.0, 99_991.0, 3.0, 12_345.0]
    for place, weight in enumerate(weights):
        tree.add((0, place), term(Update("east", delta, 1, 1, slots), weight))
    found, beside = mean(tree.total(), sum(weights))
    assert torch.equal(found["a"], delta["a"])
    assert torch.equal(beside["c"], slots["c"])


def test_the_mean_by_hand() -> None:
    tree = Tree()
    for place, (value, weight) in enumerate([(1.0, 10.0), (2.0, 20.0), (4.0, 30.0)]):
        update = Update("east", {"a": torch.tensor([value])}, 1, 1, {"c": torch.tensor([-value])})
        tree.add((0, place), term(update, weight))
    assert {name.split("/")[0] for name in tree.total()} == {"delta", SLOTS}
    delta, slots = mean(tree.total(), 60.0)
    assert delta["a"].tolist() == [pytest.approx(170 / 60)]
    assert slots["c"].tolist() == [pytest.approx(-170 / 60)]
    assert delta["a"].dtype == torch.float32


# --------------------------------------------------------------------------------------------------------- in a run


class Watching(InlinePool):
    """Notes what reaches the driver."""

    def __init__(self, of: Plan, banks_per_actor: int = 3) -> None:
        super().__init__(fakes.make_client(of)(), Actors(banks_per_actor=banks_per_actor))
        self.replies: list[object] = []
        self.nodes: list[int] = []

    def train(self, *arguments):  # type: ignore[no-untyped-def]
        for answer in super().train(*arguments):
            if isinstance(answer, Partial):
                self.nodes.append(len(answer.nodes))
            elif isinstance(answer, Answer):
                self.replies.append(answer.reply)
            yield answer


def run(of: Plan, banks_per_actor: int = 3) -> tuple[Watching, list[RoundRow], Tensors]:
    pool = Watching(of, banks_per_actor)
    events = list(Driver(of, pool).run())
    served = next(event for event in events if isinstance(event, Served))
    return pool, [event for event in events if isinstance(event, RoundRow)], served.adapter.tensors


def test_the_driver_gets_sums_and_what_is_told_of_a_round_is_as_if_it_had_got_updates() -> None:
    plan = fakes.plan()
    pool, rows, adapter = run(plan)
    assert pool.nodes == [2] * plan.num_rounds, "of three banks: a pair and one"
    for reply in pool.replies:
        assert isinstance(reply, Received)
        assert reply.update is not None
        assert (reply.update.delta, reply.update.slots) == ({}, {})
    alone, others, again = run(replace(plan, audited=True))
    assert not alone.nodes
    assert [replace(row, seconds=0) for row in rows] == [replace(row, seconds=0) for row in others]
    assert all(torch.allclose(adapter[name], again[name], atol=1e-7) for name in adapter)
    assert all(torch.equal(adapter[name], run(plan, 1)[2][name]) for name in adapter)


@pytest.mark.parametrize("kind", ["flora", "hetlora"])
def test_a_method_that_needs_every_update_is_given_every_update(kind: str) -> None:
    pool, _, _ = run(replace(fakes.plan(), strategy=fakes.strategy(kind)))
    assert not pool.nodes
    assert all(isinstance(reply, Reply) and reply.delta.body for reply in pool.replies)


def test_a_sum_that_nobody_asked_for_is_an_error() -> None:
    plan = replace(fakes.plan(), strategy=fakes.strategy("flora"))
    with pytest.raises(FedsimError, match="every update was to come by itself"):
        uplink(plan, Watching(plan)).add({(0, 0): {}})


def test_banks_that_were_sent_different_values_are_not_added_up() -> None:
    """A download codec with a residual: after a round that not all were in, banks hold different values."""
    codec = pipeline([("topk", {"density": 0.5, "error_feedback": True})])
    plan = replace(fakes.plan(download=codec, num_rounds=6), client_fraction=2 / 3)
    way, downlink, fresh = uplink(plan, Watching(plan)), Downlink(codec, 7), fakes.MakeToy()().new_adapter(7)
    states = [fresh.with_tensors({name: x + up for name, x in fresh.tensors.items()}) for up in (1, 2)]
    first = way.begin(downlink.send([TrainJob(0, "east", states[0])]))
    assert [delivery.to.order for delivery in first] == [Summand(0, 10.0)]
    later = way.begin(downlink.send([TrainJob(1, bank, states[1]) for bank in ("east", "north")]))
    assert [delivery.to.order for delivery in later] == [None, None]
    assert run(plan)[1][-1].round == 6


@pytest.mark.parametrize("too_long", ["refuse", "clip"])
def test_an_update_is_refused_or_cut_where_it_is_added_up(too_long: str, tmp_path) -> None:
    """As it would be by the driver."""
    failures = Failures(policy="skip", max_norm=10.0, too_long=too_long)
    ends = []
    for audited in (False, True):
        fakes.plant(tmp_path, 0, "north", "huge@update")
        plan = replace(fakes.plan(num_rounds=1), failures=failures, audited=audited)
        events = list(Driver(plan, InlinePool(fakes.make_client(plan, tmp_path)(), Actors(banks_per_actor=3))).run())
        row = next(event for event in events if isinstance(event, RoundRow) and event.round)
        assert row.failed == ({"north": "too_large"} if too_long == "refuse" else {})
        assert [event.bank for event in events if isinstance(event, Failed)] == ["north"]
        ends.append(next(event for event in events if isinstance(event, Served)).adapter.tensors)
    assert all(torch.allclose(ends[0][name], ends[1][name], atol=1e-6) for name in ends[0])
