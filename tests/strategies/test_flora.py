from __future__ import annotations

import torch

from fedsim.core.adapter import product
from fedsim.strategies import STRATEGIES
from fedsim.strategies.flora import fresh
from tests.strategies.toy import (
    SHAPES,
    Local,
    change,
    ended,
    exchange_all,
    infos,
    new_adapter,
    new_banks,
    play,
)

RANKS, SCALINGS = [1, 2, 2], [4.0, 2.0, 3.0]


def first_round():
    strategy, banks = STRATEGIES.create("flora", {}), new_banks()
    state = strategy.init(new_adapter(), infos(banks, RANKS, SCALINGS), seed=1)
    return strategy, state, exchange_all(strategy, state, banks, {}, Local())


def test_the_stack_has_every_banks_ranks_and_weighs_them_once() -> None:
    strategy, state, exchanges = first_round()
    (stack,) = strategy.aggregate(state, exchanges).frozen
    assert stack.rank == sum(RANKS)
    banks = [ended(strategy, exchange) for exchange in exchanges]
    shares = [5 / 18, 11 / 18, 2 / 18]
    once = sum(p * product(bank, "v") for p, bank in zip(shares, banks, strict=True))
    twice = sum(p * p * product(bank, "v") for p, bank in zip(shares, banks, strict=True))
    assert (product(stack, "v") - once).norm() < 1e-12
    assert (product(stack, "v") - twice).norm() > 0.3 * once.norm()


def test_a_fresh_adapter_changes_nothing() -> None:
    strategy, state, exchanges = first_round()
    after = strategy.aggregate(state, exchanges)
    job = strategy.configure(after, "bank0", seed=1)
    start = strategy.rule().start(job, {})
    assert start.rank == 1
    assert not torch.equal(start.tensors["q.A"], fresh(exchanges[0].job).tensors["q.A"])
    for module in SHAPES:
        assert not product(start, module).any()
        assert not product(strategy.serve(after), module).any()


def test_both_sides_draw_the_same_fresh_adapter_and_banks_draw_different_ones() -> None:
    _, _, exchanges = first_round()
    assert torch.equal(fresh(exchanges[1].job).tensors["q.A"], fresh(exchanges[1].job).tensors["q.A"])
    assert not torch.equal(fresh(exchanges[1].job).tensors["q.A"], fresh(exchanges[2].job).tensors["q.A"])


def test_the_delta_is_what_training_changed() -> None:
    """Not the distance from the adapter that was received: a clip of the delta would mostly cut that."""
    strategy, state, _ = first_round()
    (one,) = exchange_all(strategy, state, new_banks()[:1], {}, Local(num_steps=1))
    assert not one.update.delta["q.A"].any()  # with B = 0 the first gradient of A is zero


def test_stacks_are_compacted_without_loss() -> None:
    """Layers hold rank 3 at most; every round adds 5."""
    strategy, banks = STRATEGIES.create("flora", {}), new_banks()
    state = strategy.init(new_adapter(), infos(banks, RANKS, SCALINGS), seed=1)
    total = dict.fromkeys(SHAPES, 0.0)
    for _ in range(4):
        state = play(strategy, state, banks)
        before = total
        total = {module: change(state.adapter, state.frozen, module) for module in SHAPES}
        assert all((total[m] - before[m]).norm() > 0 for m in SHAPES)
        assert len(state.frozen) == 1
        assert all(state.frozen[0].tensors[f"{m}.A"].shape[0] <= 5 for m in SHAPES)


def test_max_rank_bounds_the_stack() -> None:
    strategy, banks = STRATEGIES.create("flora", {"max_rank": 2}), new_banks()
    state = strategy.init(new_adapter(), infos(banks), seed=1)
    state = play(strategy, state, banks, num_rounds=2)
    assert [below.rank for below in state.frozen] == [2]
