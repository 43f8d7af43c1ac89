from __future__ import annotations

import pytest
import torch

from fedsim.core.adapter import product
from fedsim.core.errors import ModelError
from fedsim.strategies import STRATEGIES
from tests.strategies.toy import HEAD, SHAPES, Local, close, exchange_all, infos, new_adapter, new_banks, play


def setup(seed: int = 1):
    strategy, banks = STRATEGIES.create("fedsb", {}), new_banks()
    return strategy, banks, strategy.init(new_adapter(), infos(banks), seed=seed)


def test_bases_are_orthonormal_and_the_model_starts_unchanged() -> None:
    _, _, state = setup()
    eye = torch.eye(2, dtype=torch.float64)
    for module in SHAPES:
        a, b = state.adapter.tensors[f"{module}.A"], state.adapter.tensors[f"{module}.B"]
        assert close(a @ a.T, eye)
        assert close(b.T @ b, eye)
        assert not product(state.adapter, module).any()


def test_r_squared_numbers_travel_and_bases_stay() -> None:
    strategy, banks, state = setup()
    (one, *_) = exchange_all(strategy, state, banks, {}, Local())
    assert {name: delta.shape for name, delta in one.update.delta.items()} == {
        "q.R": (2, 2),
        "v.R": (2, 2),
        HEAD: (2, 3),
    }
    after = play(strategy, state, banks, num_rounds=2)
    assert torch.equal(after.adapter.tensors["q.A"], state.adapter.tensors["q.A"])
    assert product(after.adapter, "q").norm() > 0


def test_bases_come_from_the_runs_seed() -> None:
    left, same, other = (setup(seed)[2].adapter.tensors["q.B"] for seed in (1, 1, 2))
    assert torch.equal(left, same)
    assert not torch.equal(left, other)


def test_a_rank_that_no_basis_can_have_is_refused() -> None:
    strategy, banks = STRATEGIES.create("fedsb", {}), new_banks()
    with pytest.raises(ModelError, match=r"set lora\.r to at most 3"):
        strategy.init(new_adapter(rank=4), infos(banks), seed=1)
