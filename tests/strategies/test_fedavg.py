"""FedAvg of LoRA: what it averages, and by how much it misses the mean product (algorithms.md 12.1)."""

from __future__ import annotations

import torch

from fedsim.core.adapter import product
from fedsim.strategies import STRATEGIES
from tests.strategies.toy import HEAD, SHAPES, answer, close, infos, new_adapter, new_banks

SIZES = (5, 11, 2)
SHARES = [size / 18 for size in SIZES]


def averaged(ended, sizes=SIZES):
    strategy = STRATEGIES.create("fedavg", {})
    state = strategy.init(new_adapter(), infos(new_banks(sizes)), seed=1)
    return strategy.aggregate(state, answer(strategy, state, ended, sizes)).adapter


def test_factors_and_head_are_means_weighted_by_examples() -> None:
    ended = [new_adapter(seed=seed, zero_b=False) for seed in (1, 2, 3)]
    mean = averaged(ended)
    for name in ("q.A", "v.B", HEAD):
        expected = sum(p * adapter.tensors[name] for p, adapter in zip(SHARES, ended, strict=True))
        assert close(mean.tensors[name], expected)


def test_covariance_identity() -> None:
    """sum p_k B_k A_k - B A = sum p_k (B_k - B)(A_k - A)."""
    ended = [new_adapter(seed=seed, zero_b=False) for seed in (1, 2, 3)]
    mean = averaged(ended)
    for module in SHAPES:
        a, b = mean.tensors[f"{module}.A"], mean.tensors[f"{module}.B"]
        ideal = sum(p * product(adapter, module) for p, adapter in zip(SHARES, ended, strict=True))
        spread = sum(
            p * mean.scaling * (e.tensors[f"{module}.B"] - b) @ (e.tensors[f"{module}.A"] - a)
            for p, e in zip(SHARES, ended, strict=True)
        )
        assert close(ideal - product(mean, module), spread)
        assert spread.norm() > 0.1


def test_result_depends_on_the_gauge() -> None:
    """(B Q, Q^-1 A) is the same model of a bank but another average."""
    ended = [new_adapter(seed=seed, zero_b=False) for seed in (1, 2, 3)]
    q = torch.tensor([[2.0, 1.0], [0.0, 0.5]], dtype=torch.float64)
    turned = {
        name: tensor @ q if name.endswith(".B") else torch.linalg.inv(q) @ tensor
        for name, tensor in ended[0].tensors.items()
        if name != HEAD
    }
    other = [ended[0].with_tensors(turned), *ended[1:]]
    assert close(product(other[0], "q"), product(ended[0], "q"))
    assert not close(product(averaged(other), "q"), product(averaged(ended), "q"), 1e-3)


def test_identical_banks_are_exact_and_one_bank_is_the_identity_map() -> None:
    one = new_adapter(seed=4, zero_b=False)
    for mean in (averaged([one] * 3), averaged([one], sizes=(7,))):
        for name, tensor in one.tensors.items():
            assert close(mean.tensors[name], tensor)


def test_order_of_banks_does_not_matter() -> None:
    ended = [new_adapter(seed=seed, zero_b=False) for seed in (1, 2, 3)]
    forward, backward = averaged(ended), averaged(ended[::-1], sizes=SIZES[::-1])
    assert all(close(forward.tensors[name], backward.tensors[name]) for name in forward.tensors)
