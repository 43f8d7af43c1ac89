from __future__ import annotations

import pytest
import torch

from fedsim.core.adapter import product
from fedsim.strategies import STRATEGIES
from tests.strategies.toy import SHAPES, answer, close, infos, new_adapter, new_banks

SIZES = (5, 11, 2)
ENDED = [new_adapter(seed=seed, zero_b=False) for seed in (1, 2, 3)]


def after(name: str, knobs: dict, ended=ENDED):
    strategy = STRATEGIES.create(name, knobs)
    state = strategy.init(new_adapter(), infos(new_banks(SIZES)), seed=1)
    return strategy.aggregate(state, answer(strategy, state, ended, SIZES)).adapter


def missed(adapter, module="v"):
    ideal = sum(size / 18 * product(bank, module) for size, bank in zip(SIZES, ENDED, strict=True))
    return (ideal - product(adapter, module)) / adapter.scaling


def test_the_correction_is_stationary() -> None:
    """(B + D) A A^T + lambda' D - mean product A^T = 0, lambda' = lambda tr(A A^T) / r."""
    mean, fair = after("fedavg", {}), after("lora_fair", {"lam": 0.3})
    for module in SHAPES:
        a = mean.tensors[f"{module}.A"]
        d = fair.tensors[f"{module}.B"] - mean.tensors[f"{module}.B"]
        gradient = -missed(fair, module) @ a.T + 0.3 * float((a @ a.T).trace()) / 2 * d
        assert gradient.norm() < 1e-12
        assert d.norm() > 0.1
        assert close(a, fair.tensors[f"{module}.A"])


def test_a_huge_lambda_is_fedavg() -> None:
    mean, fair = after("fedavg", {}), after("lora_fair", {"lam": 1e12})
    assert all(close(fair.tensors[name], mean.tensors[name], 1e-10) for name in mean.tensors)


def test_a_tiny_lambda_leaves_what_lies_outside_the_row_space_of_a() -> None:
    mean, fair = after("fedavg", {}), after("lora_fair", {"lam": 1e-12})
    a = mean.tensors["v.A"]
    outside = torch.eye(3, dtype=torch.float64) - torch.linalg.pinv(a) @ a
    assert close(missed(fair), missed(mean) @ outside, 1e-9)


def test_the_error_grows_with_lambda() -> None:
    errors = [float(missed(after("lora_fair", {"lam": lam})).norm()) for lam in (1e-6, 1e-2, 1, 100)]
    assert errors == sorted(errors)
    assert errors[0] < errors[-1]


def test_identical_banks_need_no_correction() -> None:
    one = [ENDED[0]] * 3
    assert close(after("lora_fair", {}, one).tensors["q.B"], ENDED[0].tensors["q.B"])


def test_lambda_is_positive() -> None:
    with pytest.raises(ValueError, match="lam"):
        STRATEGIES.create("lora_fair", {"lam": 0})
