from __future__ import annotations

import pytest
import torch

from fedsim.core.adapter import product, resize
from fedsim.strategies import STRATEGIES
from tests.strategies.toy import HEAD, SHAPES, answer, close, infos, new_adapter, new_banks

SIZES = (5, 11, 2)
RANKS, SCALINGS = [1, 2, 3], [4.0, 2.0, 3.0]


def setup(rank: int = 3):
    strategy = STRATEGIES.create("flexlora", {})
    state = strategy.init(new_adapter(rank=rank), infos(new_banks(SIZES), RANKS, SCALINGS), seed=1)
    ended = [
        new_adapter(rank=r, scaling=s, seed=seed, zero_b=False)
        for r, s, seed in zip(RANKS, SCALINGS, (1, 2, 3), strict=True)
    ]
    return strategy, state, ended


def ideal(ended, module):
    return sum(size / 18 * product(adapter, module) for size, adapter in zip(SIZES, ended, strict=True))


def test_the_mean_product_is_kept_when_the_rank_suffices() -> None:
    strategy, state, ended = setup(rank=3)  # min(d_out, d_in) is 3 in both layers
    after = strategy.aggregate(state, answer(strategy, state, ended, SIZES))
    for module in SHAPES:
        assert (product(after.adapter, module) - ideal(ended, module)).norm() < 1e-12 * ideal(ended, module).norm()


def test_every_bank_gets_the_best_approximation_of_its_rank() -> None:
    strategy, state, ended = setup()
    after = strategy.aggregate(state, answer(strategy, state, ended, SIZES))
    for bank in after.banks:
        adapter = strategy.configure(after, bank.name, seed=1).adapter
        assert (adapter.rank, adapter.scaling) == (bank.rank, bank.scaling)
        for module in SHAPES:
            sigma = torch.linalg.svdvals(ideal(ended, module))
            error = float((product(adapter, module) - ideal(ended, module)).norm())
            assert error == pytest.approx(float(sigma[bank.rank :].norm()), abs=1e-12)


def test_factors_are_those_of_a_dense_svd() -> None:
    strategy, state, ended = setup()
    adapter = strategy.aggregate(state, answer(strategy, state, ended, SIZES)).adapter
    _, sigma, vt = torch.linalg.svd(ideal(ended, "v"), full_matrices=False)
    assert close(adapter.tensors["v.A"].abs(), vt.abs(), 1e-9)
    assert close(adapter.scaling * adapter.tensors["v.B"].norm(dim=0), sigma, 1e-9)


def test_only_products_matter() -> None:
    strategy, state, ended = setup()
    q = torch.tensor([[2.0, 1.0], [0.0, 0.5]], dtype=torch.float64)
    turned = {
        name: tensor @ q if name.endswith(".B") else torch.linalg.inv(q) @ tensor
        for name, tensor in ended[1].tensors.items()
        if name != HEAD
    }
    other = [ended[0], ended[1].with_tensors(turned), ended[2]]
    left = strategy.aggregate(state, answer(strategy, state, ended, SIZES)).adapter
    right = strategy.aggregate(state, answer(strategy, state, other, SIZES)).adapter
    assert all(close(left.tensors[name], right.tensors[name], 1e-9) for name in left.tensors)


def test_a_zero_product_keeps_a_as_drawn() -> None:
    strategy, state, _ = setup()
    untrained = [resize(state.adapter, rank, scaling) for rank, scaling in zip(RANKS, SCALINGS, strict=True)]
    after = strategy.aggregate(state, answer(strategy, state, untrained, SIZES))
    assert torch.equal(after.adapter.tensors["q.A"], state.adapter.tensors["q.A"])
    assert not after.adapter.tensors["q.B"].any()


def test_rows_of_a_beyond_the_rank_stay_alive() -> None:
    """All banks end with one rank: rows 1 and 2 of A keep their former values, B is zero there."""
    strategy, state, ended = setup()
    thin = [resize(resize(adapter, 1, adapter.scaling), adapter.rank, adapter.scaling) for adapter in ended[:1] * 3]
    thin = [resize(a, r, s) for a, r, s in zip(thin, RANKS, SCALINGS, strict=True)]
    adapter = strategy.aggregate(state, answer(strategy, state, thin, SIZES)).adapter
    assert not adapter.tensors["q.B"][:, 1:].any()
    assert torch.equal(adapter.tensors["q.A"][1:], state.adapter.tensors["q.A"][1:])
