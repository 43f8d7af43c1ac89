from __future__ import annotations

import pytest
import torch

from fedsim.core.adapter import product, product_norm, resize
from fedsim.core.messages import TrainJob
from fedsim.strategies import STRATEGIES, LocalContext
from fedsim.strategies.hetlora import tail_norm
from tests.strategies.toy import HEAD, SHAPES, answer, close, gradients, infos, new_adapter, new_banks


def setup(sizes=(5, 11), ranks=(2, 2), knobs=None, rank=2):
    strategy = STRATEGIES.create("hetlora", knobs or {})
    return strategy, strategy.init(new_adapter(rank=rank), infos(new_banks(sizes), list(ranks)), seed=1)


def test_product_norm_by_the_trace() -> None:
    adapter = new_adapter(zero_b=False)
    dense = sum(float(product(adapter, module).square().sum()) for module in SHAPES) ** 0.5
    assert product_norm(adapter) == pytest.approx(dense, rel=1e-12)


def test_banks_weigh_by_their_norms_and_the_head_by_their_sizes() -> None:
    """The second bank's B is three times the first's, so weights are 1/4 and 3/4."""
    strategy, state = setup()
    one = new_adapter(seed=3, zero_b=False)
    three = one.with_tensors({name: 3 * one.tensors[name] for name in ("q.B", "v.B")})
    three = three.with_tensors({HEAD: one.tensors[HEAD] + 16})
    after = strategy.aggregate(state, answer(strategy, state, [one, three], (5, 11))).adapter
    assert close(after.tensors["q.B"], (0.25 + 0.75 * 3) * one.tensors["q.B"])
    assert close(after.tensors["q.A"], one.tensors["q.A"])
    assert close(after.tensors[HEAD], one.tensors[HEAD] + 11)


def test_truncating_a_padded_adapter_gives_it_back() -> None:
    adapter = new_adapter(rank=1, zero_b=False)
    back = resize(resize(adapter, 3, adapter.scaling), 1, adapter.scaling)
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in adapter.tensors.items())


def test_zero_norms_weigh_alike() -> None:
    strategy, state = setup()
    left, right = new_adapter(seed=1), new_adapter(seed=2)
    after = strategy.aggregate(state, answer(strategy, state, [left, right], (5, 11))).adapter
    assert close(after.tensors["q.A"], (left.tensors["q.A"] + right.tensors["q.A"]) / 2)


def test_a_rank_that_is_zero_in_both_factors_has_no_gradient() -> None:
    dead = resize(new_adapter(rank=1, zero_b=False), 2, 2.0)
    grads = gradients(dead, (), new_banks()[0])
    assert not grads["q.A"][1].any()
    assert not grads["q.B"][:, 1].any()


def test_ranks_that_nobody_holds_keep_their_values() -> None:
    strategy, state = setup(ranks=(1, 1), rank=3)
    ended = [new_adapter(rank=1, seed=seed, zero_b=False) for seed in (1, 2)]
    after = strategy.aggregate(state, answer(strategy, state, ended, (5, 11))).adapter
    assert torch.equal(after.tensors["q.A"][1:], state.adapter.tensors["q.A"][1:])
    assert not torch.equal(after.tensors["q.A"][:1], state.adapter.tensors["q.A"][:1])


def test_a_shrunken_tail_is_pruned_down_to_r_min() -> None:
    strategy, state = setup(sizes=(5,), ranks=(3,), rank=3, knobs={"gamma": 0.5, "r_min": 2})
    state = strategy.aggregate(state, answer(strategy, state, [new_adapter(rank=3, seed=1, zero_b=False)], (5,)))
    assert state.bank("bank0").rank == 3  # the tail grew from B = 0
    smaller = state.adapter.with_tensors({name: 0.9 * t for name, t in state.adapter.tensors.items()})
    state = strategy.aggregate(state, answer(strategy, state, [smaller], (5,)))
    assert state.bank("bank0").rank == 2  # max(r_min, floor(.5 * 3))
    job = strategy.configure(state, "bank0", seed=1)
    assert job.adapter.rank == 2
    state = strategy.aggregate(state, answer(strategy, state, [job.adapter], (5,)))
    assert state.bank("bank0").rank == 2


def test_the_correction_is_the_gradient_of_the_tail_norm() -> None:
    strategy = STRATEGIES.create("hetlora", {"gamma": 0.5, "lam": 0.3})
    adapter = new_adapter(rank=3, zero_b=False)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in adapter.tensors.items() if name != HEAD}
    penalty = sum(0.3 * leaves[f"{m}.B"][:, 1:].norm() * leaves[f"{m}.A"][1:].norm() for m in SHAPES)
    expected = dict(zip(leaves, torch.autograd.grad(penalty, list(leaves.values())), strict=True))
    grads = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    context = LocalContext(TrainJob(0, "bank0", adapter), adapter.tensors, {}, lr=0.1, num_steps=1)
    strategy.rule().correct({n: leaf.detach() for n, leaf in leaves.items()}, grads, context)
    assert all(close(grads[name], expected[name]) for name in grads)
    assert float(penalty.detach()) == pytest.approx(0.3 * tail_norm(adapter, 1))


def test_the_correction_is_zero_where_b_is() -> None:
    strategy, adapter = STRATEGIES.create("hetlora", {}), new_adapter()
    grads = {name: torch.zeros_like(tensor) for name, tensor in adapter.tensors.items()}
    context = LocalContext(TrainJob(0, "bank0", adapter), adapter.tensors, {}, lr=0.1, num_steps=1)
    strategy.rule().correct(dict(adapter.tensors), grads, context)
    assert not any(grad.any() for grad in grads.values())
