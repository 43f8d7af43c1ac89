"""Whatever an actor sends: an update with the tensors that were asked for, all finite, or a refusal that names it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.codecs import pipeline
from fedsim.codecs.base import Codec, Payload
from fedsim.core.adapter import AdapterState
from fedsim.core.messages import TrainJob, Update
from fedsim.core.sections import Failures
from fedsim.engine.transport import Delivery, Downlink, Reply, pack
from fedsim.engine.uplink import Receiver
from fedsim.strategies.base import LocalRule, Outcome
from fedsim.train.values import Trained
from tests.fuzz.conftest import seeds
from tests.fuzz.mutations import broken

CHAINS = {
    "float32": [],
    "bfloat16": [("bfloat16", {})],
    "affine 2": [("affine", {"bits": 2})],
    "qsgd": [("qsgd", {})],
    "topk": [("topk", {"density": 0.1})],
    "topk affine": [("topk", {"density": 0.3}), ("affine", {"bits": 8})],
    "randk": [("randk", {"density": 0.2})],
    "sparse qsgd": [("sparse", {}), ("qsgd", {"levels": 3})],
    "topk sparse": [("topk", {"density": 0.5}), ("sparse", {})],
}
SIZES = [(), (0,), (1,), (7, 40), (40, 7), (2**31, 2**31), (2**62, 4), (-1, 3), (3, 3, 3)]


def sent(chain: str) -> tuple[Reply, Codec, Delivery]:
    """(reply, codec, delivery) of a bank that did what it was asked."""
    draws = torch.Generator().manual_seed(1)
    tensors = {"q.A": torch.randn(8, 40, generator=draws), "q.B": torch.randn(40, 8, generator=draws)}
    job = TrainJob(0, "east", AdapterState(tensors, rank=8, scaling=2.0), slots={"control": torch.ones(5)}, seed=3)
    (delivery,) = Downlink(pipeline(()), 1).send([job])
    outcome = Outcome({name: tensor * 0.1 for name, tensor in tensors.items()}, {"control": torch.zeros(5)}, {})
    codec = pipeline(CHAINS[chain])
    reply, _ = pack(Trained("east", outcome, num_examples=9, num_steps=2, spend=None), codec, {}, 3)
    return reply, codec, delivery


def damaged(reply: Reply, rng: Random) -> Reply:
    """One or two of: a body broken, a shape or a name changed, a tensor more or less, other numbers in the body."""
    for _ in range(rng.randint(1, 2)):
        part = rng.choice(("delta", "slots"))
        shapes_of = "delta_shapes" if part == "delta" else "slot_shapes"
        shapes, payload = dict(getattr(reply, shapes_of)), getattr(reply, part)
        action = rng.randrange(5)
        if action <= 1:
            reply = replace(reply, **{part: Payload(broken(payload.body, rng), payload.value_bytes)})
        elif action == 2:
            floats = rng.choice((math.nan, math.inf, -math.inf, 3e38))
            body = torch.full((max(1, len(payload.body) // 4),), floats).numpy().tobytes()
            reply = replace(reply, **{part: Payload(body[: len(payload.body)], payload.value_bytes)})
        elif shapes:
            name = rng.choice(sorted(shapes))
            size = shapes.pop(name)
            if action == 3:
                shapes[rng.choice((name, "k.A", "", "../q.A", "head.weight"))] = rng.choice((size, *SIZES))
            reply = replace(reply, **{shapes_of: shapes})
    return reply


def received(reply: Reply, codec: Codec, delivery: Delivery) -> Update | None:
    """As the server takes it in; None where it is refused."""
    return Receiver(codec, LocalRule(), Failures()).receive(reply, delivery.job()).update


def examine(chain: str, seed: int) -> bool:
    reply, codec, delivery = sent(chain)
    update = received(damaged(reply, Random(seed)), codec, delivery)
    if update is None:
        return False
    wanted: Mapping[str, torch.Tensor] = delivery.job().adapter.tensors
    assert {name: tensor.shape for name, tensor in update.delta.items()} == {n: t.shape for n, t in wanted.items()}
    assert all(torch.isfinite(tensor).all() for tensor in (*update.delta.values(), *update.slots.values()))
    return True


@pytest.mark.parametrize("chain", CHAINS)
def test_an_undamaged_message_arrives(chain: str) -> None:
    assert received(*sent(chain)) is not None


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(CHAINS)), st.integers(0, 2**32))
def test_a_damaged_message_is_refused_or_fit_for_use(chain: str, seed: int) -> None:
    examine(chain, seed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_damaged_messages(fuzz_report) -> None:
    with fuzz_report("adapter messages") as counts:
        for seed in seeds(30_000):
            counts["used" if examine(sorted(CHAINS)[seed % len(CHAINS)], seed) else "refused"] += 1
    assert min(counts["used"], counts["refused"]) > 100
