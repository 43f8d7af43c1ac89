"""Rounds whose updates are masked: what the driver sees, what it learns, what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch

from fedsim.codecs import CODECS
from fedsim.codecs.randk import RandK
from fedsim.core.adapter import AdapterState, Tensors, flatten, weighted_mean
from fedsim.core.errors import FedsimError, QuorumError
from fedsim.core.events import Finished, RoundRow, Served
from fedsim.core.messages import TrainJob, Update
from fedsim.core.sections import Failures
from fedsim.engine.driver import Driver, uplink
from fedsim.engine.plan import Plan
from fedsim.engine.pool import Answer, InlinePool
from fedsim.engine.ray_pool import RayPool
from fedsim.engine.resources import Actors
from fedsim.engine.secure import BankSide, Coordinates, Order, Terms
from fedsim.engine.transport import Delivery, Downlink, Reply, pack
from fedsim.engine.uplink import Received
from fedsim.secagg import PROTOCOLS
from fedsim.secagg.ring import unpack
from fedsim.secagg.wire import Roster
from fedsim.strategies import STRATEGIES
from fedsim.strategies.base import LocalRule, Outcome
from fedsim.train.values import Trained
from tests.engine import fakes

VALUES = 2 * 3 + 4 * 2
RING_BITS = 22  # 20 bits for one value, three banks


def secure(num_rounds: int = 2, kind: str = "secagg", equal: bool = False, **knobs: float) -> Plan:
    protocol = PROTOCOLS.create(kind, {"clip": 2.0, **knobs})
    return replace(fakes.plan(num_rounds=num_rounds), secure_sum=Terms(protocol, protocol.grid, equal_weights=equal))


def pool_of(plan: Plan, secret: bytes = bytes(32)) -> InlinePool:
    return InlinePool(fakes.make_client(plan, secret=secret)(), Actors())


def play(plan: Plan, secret: bytes = bytes(32)) -> list[object]:
    return list(Driver(plan, pool_of(plan, secret)).run())


def rows(events: Sequence[object]) -> list[RoundRow]:
    return [event for event in events if isinstance(event, RoundRow)][1:]


def served(events: Sequence[object]) -> Tensors:
    return next(event for event in events if isinstance(event, Served)).adapter.tensors


def trained(plan: Plan) -> tuple[AdapterState, list[Tensors]]:
    """The first adapter and what every bank makes of it."""
    trainer = fakes.MakeToy()()
    start = trainer.new_adapter(plan.seed)
    state = plan.strategy.init(start, plan.infos, plan.seed)
    jobs = [plan.strategy.configure(state, bank, plan.seed) for bank in fakes.BANKS]
    return start, [result.outcome.delta for result in trainer.train(jobs, [{}, {}, {}])]


def gap(plan: Plan, banks: Sequence[int], weights: Sequence[float]) -> float:
    """How far one round ends from the mean of these banks."""
    start, deltas = trained(plan)
    mean = weighted_mean([deltas[bank] for bank in banks], weights)
    after = served(play(plan))
    return max(float((after[name] - start.tensors[name] - mean[name]).abs().max()) for name in mean)


def test_a_round_gives_the_weighted_mean_to_the_step_of_the_grid() -> None:
    plan = secure(num_rounds=1)
    assert plan.secure_sum is not None
    step = plan.secure_sum.grid.step
    assert gap(plan, [0, 1, 2], [10, 20, 30]) <= 3 * step / (60 / 30) + 1e-6
    assert gap(secure(num_rounds=1, equal=True), [0, 1, 2], [1, 1, 1]) <= step + 1e-6
    assert gap(plan, [0, 1, 2], [1, 1, 1]) > 100 * step


def test_results_do_not_depend_on_the_banks_secret_and_messages_do() -> None:
    plan, seen = secure(), list[list[bytes]]()
    for secret in (bytes(32), b"s" * 32):
        bodies: list[bytes] = []

        class Watching(InlinePool):
            def train(self, *arguments, bodies=bodies):  # type: ignore[no-untyped-def]
                for answer in super().train(*arguments):
                    bodies += [answer.reply.delta.body] if isinstance(answer, Answer) else []
                    yield answer

        pool = Watching(fakes.make_client(plan, secret=secret)(), Actors())
        assert fakes.same(served(list(Driver(plan, pool).run())), served(play(plan)))
        seen.append(bodies)
    assert len(seen[0]) == len(seen[1]) == 6
    assert not set(seen[0]) & set(seen[1])
    assert len(set(seen[0])) == 6  # another round has other masks


def test_the_driver_sees_no_value_of_an_update() -> None:
    plan = secure(num_rounds=1)
    seen: list[Update] = []
    driver = Driver(plan, pool_of(plan))

    def watched(reply: Reply | Received, delivery: Delivery) -> Received:
        received = type(driver.uplink).receive(driver.uplink, reply, delivery)
        assert received.update is not None
        seen.append(received.update)
        return received

    driver.uplink.receive = watched  # type: ignore[method-assign]
    list(driver.run())
    assert [dict(update.delta) for update in seen] == [{}, {}, {}]
    assert [update.num_examples for update in seen] == [10, 20, 30]


def test_what_leaves_an_actor_is_not_the_update() -> None:
    """Unmasked codes of an update of zeros would be zeros; what arrives fills the ring."""
    plan = secure(equal=True)
    assert plan.secure_sum is not None
    adapter = fakes.MakeToy()().new_adapter(7)
    jobs = [TrainJob(0, bank, adapter, seed=5) for bank in fakes.BANKS]
    way = uplink(plan, pool_of(plan))
    orders = [delivery.to.order for delivery in way.begin(Downlink(plan.download, 7).send(jobs))]
    order = orders[1]
    assert isinstance(order, Order)
    nothing = Trained("north", Outcome({"v": torch.zeros(2000)}, {}, {}), 20, 3, None)
    plain, _ = pack(nothing, plan.upload, {}, 5)
    reply = BankSide(plan.secure_sum, bytes(32)).masked(plain, nothing, jobs[1], order, LocalRule())
    assert Roster.from_bytes(order.roster).ring_bits == RING_BITS
    elements = unpack(reply.delta.body, RING_BITS, 2000)
    assert len(set(elements.tolist())) > 1990
    assert abs(float(elements.mean()) / 2 ** (RING_BITS - 1) - 1) < 0.05
    assert reply.oracle["plain_bytes_up"] == 8000


def test_bytes_of_a_round_by_hand() -> None:
    """Three banks of two neighbours: keys, two sealed shares, the vector, three revealed shares; rosters and mail."""
    (row,) = rows(play(secure(num_rounds=1)))
    up = 64 + 2 * (2 + 82) + (VALUES * RING_BITS + 7) // 8 + 3 * (2 + 33)
    down = 4 * VALUES + (5 + 2 * (2 + 64)) + 2 * (2 + 82) + 3 * 2
    assert [(bank.bytes_up, bank.bytes_down) for bank in row.banks] == [(up, down)] * 3
    assert (row.bytes_up, row.bytes_down) == (3 * up, 3 * down)
    assert row.oracle["plain_bytes_up"] == 4 * VALUES


def test_a_bank_that_drops_out_is_left_out_of_the_sum_and_pays_for_what_it_sent() -> None:
    plan = replace(secure(num_rounds=1, dropout=0.3), seed=17)
    events = play(plan)
    (row,) = rows(events)
    assert [bank.participated for bank in row.banks] == [True, False, True]
    assert row.failed == {"north": "dropped_out"}
    assert gap(plan, [0, 2], [10, 30]) < 1e-4
    gone = row.banks[1]
    assert (gone.bytes_up, gone.num_steps, gone.epsilon, gone.num_releases) == (64 + 2 * (2 + 82), 0, 0.0, 0)
    assert row.banks[0].epsilon > 0
    assert gone.bytes_down == 4 * VALUES + (5 + 2 * (2 + 64)) + 2 * (2 + 82)
    assert row.oracle["loss"] == pytest.approx((10 * 1 + 30 * 3) / 40)


def test_too_few_banks_open_nothing() -> None:
    plan = secure(num_rounds=1, dropout=0.99)
    with pytest.raises(QuorumError, match="round 1: secure aggregation: 0 of 3 banks are present and 2 are needed"):
        play(plan)


def test_a_bank_whose_work_fails_is_a_bank_that_dropped_out(tmp_path: Path) -> None:
    plan = secure(num_rounds=1)
    fakes.plant(tmp_path, 0, "west", "bug")
    pool = InlinePool(fakes.make_client(plan, tmp_path)(), Actors(banks_per_actor=1))
    events = list(Driver(replace(plan, failures=Failures(policy="skip")), pool).run())
    (row,) = rows(events)
    assert row.failed == {"west": "error"}
    assert row.banks[2].bytes_up == 64 + 2 * (2 + 82)
    start, deltas = trained(plan)
    mean = weighted_mean(deltas[:2], [10, 20])
    assert all(torch.allclose(served(events)[n] - start.tensors[n], mean[n], atol=1e-4) for n in mean)


def test_a_clipped_value_is_told_as_an_oracle() -> None:
    (row,) = rows(play(secure(num_rounds=1, clip=0.01)))
    assert 0.5 < row.oracle["cut_off_share"] <= 1
    assert rows(play(secure(num_rounds=1)))[0].oracle["cut_off_share"] == 0


def test_slots_have_no_mask_and_do_not_leave() -> None:
    plan = secure()
    assert plan.secure_sum is not None
    side = BankSide(plan.secure_sum, bytes(32))
    leaky = Trained("east", Outcome({}, {"c/q.A": torch.ones(2)}, {}), 10, 3, None)
    job = TrainJob(0, "east", AdapterState({}, 2, 1.0))
    with pytest.raises(FedsimError, match=r"\['c/q.A'\] would leave bank 'east' without a mask"):
        side.masked(pack(leaky, plan.upload, {}, 5)[0], leaky, job, Order(b"", b"", 1.0, 1), LocalRule())


# ------------------------------------------------------------------------------------------------- coordinates


def randk(density: float) -> tuple[RandK]:
    stage = CODECS.create("randk", {"density": density})
    assert isinstance(stage, RandK)
    return (stage,)


UPDATE = {"b": torch.arange(1.0, 7.0).reshape(2, 3), "a": torch.arange(10.0, 14.0)}


def test_all_coordinates_come_back() -> None:
    everywhere = Coordinates(None, (), 1)
    assert torch.equal(everywhere.gather(UPDATE), flatten(UPDATE))
    assert fakes.same(everywhere.scatter(flatten(UPDATE), UPDATE), UPDATE)


def test_random_coordinates_are_the_same_for_all_banks_and_unbiased() -> None:
    some = Coordinates(None, randk(0.4), 9)
    sent = some.gather(UPDATE)
    assert len(sent) == 4
    back = flatten(some.scatter(sent, UPDATE))
    where = back != 0
    assert int(where.sum()) == 4
    assert torch.equal(back[where], flatten(UPDATE)[where] * 2.5)
    other = {name: tensor + 100 for name, tensor in UPDATE.items()}
    assert torch.equal(flatten(some.scatter(some.gather(other), other)) != 0, where)
    mean = torch.stack(
        [
            flatten(Coordinates(None, randk(0.4), s).scatter(Coordinates(None, randk(0.4), s).gather(UPDATE), UPDATE))
            for s in range(3000)
        ]
    ).mean(0)
    assert torch.allclose(mean, flatten(UPDATE), rtol=0.15)


def test_a_methods_mask_travels_without_indices() -> None:
    support = {"a": torch.tensor([True, False, True, False]), "b": torch.tensor([[True, False, False]] * 2)}
    chosen = Coordinates(support, (), 1)
    assert chosen.gather(UPDATE).tolist() == [10, 12, 1, 4]
    assert flatten(chosen.scatter(torch.tensor([1.0, 2.0, 3.0, 4.0]), UPDATE)).tolist() == [
        1,
        0,
        2,
        0,
        3,
        0,
        0,
        4,
        0,
        0,
    ]
    assert len(Coordinates(support, randk(0.5), 1).gather(UPDATE)) == 2


def test_flasc_sends_the_coordinates_that_the_server_chose() -> None:
    knobs = {
        "mode": "client_freeze",
        "density_down": 0.5,
        "density_up": 1.0,
        "server_optimizer": "sgd",
        "server_lr": 1.0,
    }
    strategy = STRATEGIES.create("flasc", knobs)
    plan = replace(secure(num_rounds=2, equal=True), strategy=strategy, rule=strategy.rule())
    first, second = rows(play(plan))
    saved = (VALUES * RING_BITS + 7) // 8 - (VALUES // 2 * RING_BITS + 7) // 8
    assert first.banks[0].bytes_up - second.banks[0].bytes_up == saved > 0


# ------------------------------------------------------------------------------------------------- in Ray


@pytest.mark.ray
def test_ray_actors_give_the_bits_of_the_inline_pool(ray_session: Actors) -> None:
    plan = secure(kind="secagg_plus", dropout=0.3)
    pool = RayPool(ray.put(fakes.make_client(plan)), ray_session)
    try:
        events = list(Driver(plan, pool).run())
    finally:
        pool.close()
    reference = play(plan)
    assert fakes.same(served(events), served(reference))
    assert [replace(row, seconds=0.0) for row in rows(events)] == [replace(row, seconds=0.0) for row in rows(reference)]
    assert isinstance(events[-1], Finished)
