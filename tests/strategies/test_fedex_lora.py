from __future__ import annotations

import pytest
import torch

from fedsim.core.adapter import product
from fedsim.strategies import STRATEGIES
from fedsim.strategies.fedex_lora import residual
from tests.strategies.toy import SHAPES, answer, infos, new_adapter, new_banks

SIZES = (5, 11, 2)


def after(ended, sizes=SIZES, knobs=None):
    strategy = STRATEGIES.create("fedex_lora", knobs or {})
    state = strategy.init(new_adapter(), infos(new_banks(sizes)), seed=1)
    return strategy.aggregate(state, answer(strategy, state, ended, sizes))


def test_factors_are_fedavg_and_the_residual_is_what_they_miss() -> None:
    ended = [new_adapter(seed=seed, zero_b=False) for seed in (1, 2, 3)]
    state = after(ended)
    (missed,) = state.frozen
    for module in SHAPES:
        ideal = sum(size / 18 * product(adapter, module) for size, adapter in zip(SIZES, ended, strict=True))
        assert (product(missed, module) - (ideal - product(state.adapter, module))).norm() < 1e-12 * ideal.norm()
        assert product(missed, module).norm() > 0.1


def test_residual_rank_is_at_most_k_minus_1_times_r() -> None:
    ended = [new_adapter(rank=1, seed=seed, zero_b=False) for seed in (1, 2, 3)]
    mean = new_adapter(rank=1).with_tensors(
        {name: sum(e.tensors[name] for e in ended) / 3 for name in ended[0].tensors}
    )
    missed = residual(ended, mean, [1 / 3] * 3)
    assert missed.rank == 2
    assert torch.linalg.matrix_rank(product(missed, "v")) == 2  # of at most 3


def test_identical_banks_leave_no_residual_and_one_bank_none_at_all() -> None:
    one = new_adapter(seed=4, zero_b=False)
    (missed,) = after([one] * 3).frozen
    assert all(product(missed, module).norm() < 1e-12 for module in SHAPES)
    assert after([one], sizes=(7,)).frozen == ()


def test_residual_rank_keeps_the_best_approximation() -> None:
    ended = [new_adapter(seed=seed, zero_b=False) for seed in (1, 2, 3)]
    (whole,), (cut,) = after(ended).frozen, after(ended, knobs={"residual_rank": 1}).frozen
    sigma = torch.linalg.svdvals(product(whole, "v"))
    assert cut.rank == 1
    error = float((product(whole, "v") - product(cut, "v")).norm())
    assert error == pytest.approx(float(sigma[1:].norm()), rel=1e-9)
