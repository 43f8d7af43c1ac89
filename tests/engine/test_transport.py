"""What a message costs and what arrives, on tensors of six and eight numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from fedsim.codecs import Codec, pipeline
from fedsim.core.adapter import AdapterState, Tensors
from fedsim.core.messages import TrainJob
from fedsim.engine.transport import Downlink, pack, rule_kept, unpack
from fedsim.engine.validation import Refused
from fedsim.strategies.base import Outcome
from fedsim.train.values import Trained
from tests.engine import fakes

A, B = 4 * 2 * 3, 4 * 4 * 2  # bytes of q.A (2, 3) and q.B (4, 2) as float32


def adapter(a: float = 1.0, b: float = 0.0) -> AdapterState:
    ramp = torch.arange(6.0).reshape(2, 3) / 7
    return AdapterState({"q.A": ramp + a, "q.B": torch.full((4, 2), b)}, rank=2, scaling=2.0)


def job(bank: str, state: AdapterState, round_: int = 0, **parts: object) -> TrainJob:
    return replace(TrainJob(round_, bank, state, seed=5), **parts)


def trained(delta: Tensors, slots: Tensors | None = None, kept: Tensors | None = None) -> Trained:
    return Trained("east", Outcome(delta, slots or {}, kept or {}), num_examples=10, num_steps=3, spend=None)


class Counting(Codec):
    """float32 that counts how often it is asked to encode."""

    def __init__(self) -> None:
        plain = pipeline(())
        super().__init__(plain.sparsifiers, plain.values)
        self.calls = 0

    def compress(self, tensors, kept, generator):  # type: ignore[no-untyped-def]
        self.calls += 1
        return super().compress(tensors, kept, generator)


# -------------------------------------------------------------------------------------------------------- download


def test_a_first_download_costs_every_tensor_and_arrives_as_it_was() -> None:
    state = adapter()
    frozen = AdapterState({"q.A": torch.ones(1, 3), "q.B": torch.ones(4, 1)}, rank=1, scaling=1.0)
    sent = job("east", state, frozen=(frozen,), slots={"control": torch.ones(5)})
    (delivery,) = Downlink(pipeline(()), 1).send([sent])
    assert delivery.num_bytes == A + B + 4 * (3 + 4) + 4 * 5
    arrived = delivery.job()
    assert (arrived.round, arrived.bank, arrived.seed) == (0, "east", 5)
    assert fakes.same(arrived.adapter.tensors, state.tensors)
    assert fakes.same(arrived.frozen[0].tensors, frozen.tensors)
    assert (arrived.frozen[0].rank, arrived.adapter.scaling) == (1, 2.0)
    assert torch.equal(arrived.slots["control"], torch.ones(5))


def test_only_tensors_with_new_content_are_sent_again() -> None:
    link = Downlink(pipeline(()), 1)
    frozen = AdapterState({"q.A": torch.ones(1, 3), "q.B": torch.ones(4, 1)}, rank=1, scaling=1.0)
    link.send([job("east", adapter(a=1.0), frozen=(frozen,))])
    assert [link.send([job("east", adapter(a=2.0), 1, frozen=(frozen,))])[0].num_bytes] == [A]
    assert [link.send([job("east", adapter(a=2.0), 2, frozen=(frozen,))])[0].num_bytes] == [0]
    (delivery,) = link.send([job("east", adapter(a=2.0, b=1.0), 3, frozen=(frozen, frozen))])
    assert delivery.num_bytes == B + 4 * (3 + 4)
    assert fakes.same(delivery.job().adapter.tensors, adapter(a=2.0, b=1.0).tensors)


def test_a_bank_that_missed_a_round_is_sent_what_it_missed() -> None:
    link = Downlink(pipeline(()), 1)
    link.send([job("east", adapter()), job("west", adapter())])
    link.send([job("east", adapter(a=2.0), 1)])
    east, west = link.send([job("east", adapter(a=2.0, b=1.0), 2), job("west", adapter(a=2.0, b=1.0), 2)])
    assert (east.num_bytes, west.num_bytes) == (B, A + B)
    assert fakes.same(east.job().adapter.tensors, west.job().adapter.tensors)


def test_equal_content_is_encoded_once_and_shared() -> None:
    codec = Counting()
    link, state = Downlink(codec, 1), adapter()
    deliveries = link.send([job(bank, state) for bank in fakes.BANKS])
    assert codec.calls == 1
    assert len({id(delivery.parcel) for delivery in deliveries}) == 1
    other = link.send([job("east", adapter(a=3.0), 1), job("west", adapter(a=4.0), 1)])
    assert codec.calls == 3
    assert other[0].parcel is not other[1].parcel


def test_a_bank_trains_from_the_decoded_values() -> None:
    state = adapter(a=1 / 3)
    (delivery,) = Downlink(pipeline([("bfloat16", {})]), 1).send([job("east", state)])
    arrived = delivery.job().adapter.tensors
    assert delivery.num_bytes == (A + B) // 2
    assert torch.equal(arrived["q.A"], state.tensors["q.A"].bfloat16().float())
    assert not torch.equal(arrived["q.A"], state.tensors["q.A"])


def test_an_unchanged_tensor_keeps_the_value_that_arrived() -> None:
    link, state = Downlink(pipeline([("qsgd", {})]), 1), adapter(a=1 / 3, b=1 / 7)
    first = link.send([job("east", state)])[0].job().adapter.tensors
    again = link.send([job("east", state, 1)])[0].job().adapter.tensors
    assert fakes.same(first, again)


def test_the_residual_of_a_download_belongs_to_one_link() -> None:
    """East gets two messages, west one: what east is still owed is added to its second message only."""
    codec = pipeline([("topk", {"density": 0.25, "error_feedback": True})])
    link = Downlink(codec, 1)
    first, second = adapter(a=1.0), adapter(a=2.0)
    sent_first = link.send([job("east", first)])[0].job().adapter.tensors["q.A"]
    east, west = link.send([job("east", second, 1), job("west", second, 1)])
    fresh = Downlink(codec, 1).send([job("west", second, 1)])[0]
    assert torch.equal(west.job().adapter.tensors["q.A"], fresh.job().adapter.tensors["q.A"])
    assert not torch.equal(sent_first, first.tensors["q.A"])
    assert not torch.equal(east.job().adapter.tensors["q.A"], west.job().adapter.tensors["q.A"])


# ---------------------------------------------------------------------------------------------------------- upload


def test_an_upload_is_counted_on_both_bodies_and_decoded() -> None:
    delta, slots = {"q.A": torch.full((2, 3), 1 / 3)}, {"control": torch.full((5,), 1 / 3)}
    codec = pipeline([("bfloat16", {})])
    reply, kept = pack(trained(delta, slots, {"own.B": torch.ones(1)}), codec, {}, seed=3)
    update = unpack(reply, codec)
    assert update.bytes_up == A // 2 + 4 * 5
    assert torch.equal(update.delta["q.A"], delta["q.A"].bfloat16().float())
    assert fakes.same(update.slots, slots), "slots travel as float32"
    assert (update.num_examples, update.num_steps, update.spend) == (10, 3, None)
    assert set(kept) == {"own.B"}


def test_nothing_to_send_costs_nothing() -> None:
    codec = pipeline([("topk", {"density": 0.5}), ("affine", {})])
    update = unpack(pack(trained({}), codec, {}, seed=3)[0], codec)
    assert (update.bytes_up, dict(update.delta)) == (0, {})


def test_the_residual_of_an_upload_stays_at_the_bank_and_apart_from_the_rule() -> None:
    codec = pipeline([("topk", {"density": 0.5, "error_feedback": True})])
    delta = {"q.A": torch.arange(1.0, 7.0).reshape(2, 3)}
    reply, kept = pack(trained(delta, kept={"own.B": torch.ones(1)}), codec, {}, seed=3)
    assert set(kept) == {"own.B", "codec/q.A"}
    assert set(rule_kept(kept)) == {"own.B"}
    first = unpack(reply, codec).delta["q.A"]
    assert torch.equal(first + kept["codec/q.A"], delta["q.A"])
    reply, kept = pack(trained(delta), codec, kept, seed=4)
    second = unpack(reply, codec).delta["q.A"]
    assert torch.equal(first + second + kept["codec/q.A"], 2 * delta["q.A"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("codec", [pipeline(()), pipeline([("affine", {})])], ids=["float32", "affine"])
def test_values_that_are_not_finite_never_leave(codec: Codec, value: float) -> None:
    before = {"own.B": torch.ones(1)}
    diverged = trained({"q.A": torch.tensor([value, 1, 1, 1, 1, 1])}, kept={"own.B": torch.full((1,), value)})
    reply, kept = pack(diverged, codec, before, seed=3)
    assert (reply.delta.num_bytes, reply.problem) == (0, "1 of 6 values of 'q.A' in the update are not finite")
    assert fakes.same(kept, before), "what the bank keeps did not diverge with it"
    with pytest.raises(Refused, match=r"^1 of 6 values"):
        unpack(reply, codec)


def test_what_a_bank_keeps_does_not_diverge_although_its_update_is_finite() -> None:
    before = {"own.B": torch.ones(1)}
    diverged = trained({"q.A": torch.ones(2, 3)}, kept={"own.B": torch.tensor([math.nan])})
    reply, kept = pack(diverged, pipeline(()), before, seed=3)
    assert (reply.delta.num_bytes, reply.problem) == (0, "1 of 1 values of 'own.B' in what it keeps are not finite")
    assert fakes.same(kept, before)


def test_values_that_are_not_finite_never_reach_a_mean() -> None:
    reply, _ = pack(trained({"q.A": torch.ones(2, 3)}), pipeline(()), {}, seed=3)
    poisoned = replace(reply, delta=replace(reply.delta, body=b"\x00\x00\xc0\x7f" * 6))
    with pytest.raises(Refused, match=r"^6 of 6 values of 'q.A'"):
        unpack(poisoned, pipeline(()))
