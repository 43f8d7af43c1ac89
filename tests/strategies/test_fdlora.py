from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from fedsim.strategies import STRATEGIES
from tests.strategies.toy import (
    HEAD,
    Local,
    answer,
    close,
    exchange_all,
    infos,
    loss,
    new_adapter,
    new_banks,
    play,
    scalar_adapter,
    scalar_bank,
)


def setup(knobs: dict | None = None):
    strategy, banks = STRATEGIES.create("fdlora", knobs or {}), new_banks()
    return strategy, banks, strategy.init(new_adapter(), infos(banks), seed=1)


def same(left, right) -> bool:
    return all(close(left.tensors[name], right.tensors[name]) for name in left.tensors)


def test_outer_lr_1_without_momentum_is_fedavg() -> None:
    strategy, banks, state = setup({"outer_lr": 1, "momentum": 0})
    fedavg = STRATEGIES.create("fedavg", {})
    right = play(fedavg, fedavg.init(new_adapter(), infos(banks), seed=1), banks, num_rounds=3).adapter
    assert same(play(strategy, state, banks, num_rounds=3).adapter, right)


def test_stage_1_uploads_every_personal_adapter_once() -> None:
    strategy, banks, state = setup()
    kept: dict = {}
    exchanges = exchange_all(strategy, state, banks, kept, Local())
    for exchange in exchanges:
        assert exchange.update.delta.keys() == state.adapter.tensors.keys()
    mean = sum(b.num_examples / 18 * kept[b.name]["personal/v.B"] for b in banks)
    assert close(strategy.aggregate(state, exchanges).adapter.tensors["v.B"], mean)


def test_outer_nesterov_by_hand() -> None:
    """Delta = -.1 twice, lr .5, momentum .5: m = -.1, x = .5 (.1 + .05) = .075; m = -.15, x = .075 + .5 (.1 + .075)."""
    strategy = STRATEGIES.create("fdlora", {"outer_lr": 0.5, "momentum": 0.5})
    state = strategy.init(scalar_adapter(), infos([scalar_bank("a", 1, 0)]), seed=1)
    state = strategy.aggregate(state, answer(strategy, state, [scalar_adapter(0.0)], [3]))  # stage 1
    for expected in (0.075, 0.1625):
        x = float(state.adapter.tensors["head.x"])
        state = strategy.aggregate(state, answer(strategy, state, [scalar_adapter(x + 0.1)], [3]))
        assert float(state.adapter.tensors["head.x"]) == pytest.approx(expected)


def test_personal_adapters_sync_every_h_rounds() -> None:
    strategy, banks, state = setup({"sync_every": 3})
    kept: dict = {}
    versions = []
    for _ in range(7):
        state = play(strategy, state, banks, kept=kept)
        versions.append(kept["bank0"]["personal/v.B"])
    changed = [not torch.equal(a, b) for a, b in pairwise(versions)]
    assert changed == [False, False, True, False, False, True]  # rounds 1..6


def test_a_late_bank_takes_its_first_trained_adapter() -> None:
    strategy, banks, state = setup()
    kept: dict = {}
    state = play(strategy, state, banks[:2], kept=kept)
    state = play(strategy, state, banks, kept=kept)
    assert kept["bank2"].keys() == kept["bank0"].keys()


def fused(knobs: dict):
    strategy, banks, state = setup(knobs)
    kept: dict = {}
    state = play(strategy, state, banks, num_rounds=4, local=Local(num_steps=30), kept=kept)
    job, bank = strategy.configure(state, "bank2", seed=1), banks[2]

    def own_loss(adapter) -> float:
        return float(loss(adapter, (), bank))

    personal = job.adapter.with_tensors({n.removeprefix("personal/"): t for n, t in kept["bank2"].items()})
    return strategy.rule().fuse(job, kept["bank2"], own_loss), personal, job.adapter, own_loss


def test_the_search_is_never_worse_than_personal_shared_or_their_mean() -> None:
    result, personal, shared, own_loss = fused({"fusion_penalty": 0})
    assert own_loss(result) <= min(own_loss(personal), own_loss(shared))
    assert own_loss(result) < own_loss(shared)
    again, *_ = fused({"fusion_penalty": 0})
    assert all(torch.equal(again.tensors[name], result.tensors[name]) for name in result.tensors)


def test_without_search_steps_the_best_of_three_is_taken() -> None:
    result, personal, shared, own_loss = fused({"fusion_steps": 0, "fusion_penalty": 0})
    half = shared.with_tensors({n: (personal.tensors[n] + t) / 2 for n, t in shared.tensors.items()})
    best = min((personal, shared, half), key=own_loss)
    assert same(result, best)


def test_the_search_finds_a_quadratics_optimum() -> None:
    rule = STRATEGIES.create("fdlora", {"fusion_steps": 200}).rule()
    best = rule.search(lambda w: (w[0] - 0.8) ** 2 + (w[1] + 0.4) ** 2, np.random.Generator(np.random.PCG64(1)))
    assert best == pytest.approx([0.8, -0.4], abs=0.01)


def test_a_bank_that_never_trained_uses_the_shared_adapter() -> None:
    strategy, _, state = setup()
    job = strategy.configure(state, "bank0", seed=1)
    assert strategy.rule().personal
    assert strategy.rule().fuse(job, {}, lambda _: 0.0) is job.adapter
    assert HEAD in job.adapter.tensors
