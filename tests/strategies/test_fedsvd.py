from __future__ import annotations

import torch

from fedsim.core.adapter import product
from fedsim.strategies import STRATEGIES
from tests.strategies.toy import SHAPES, Local, close, ended, exchange_all, infos, new_adapter, new_banks


def test_the_product_is_kept_and_a_has_orthonormal_rows() -> None:
    strategy, banks = STRATEGIES.create("fedsvd", {}), new_banks()
    state = strategy.init(new_adapter(), infos(banks), seed=1)
    for _ in range(2):
        exchanges = exchange_all(strategy, state, banks, {}, Local())
        models = [ended(strategy, exchange) for exchange in exchanges]
        state = strategy.aggregate(state, exchanges)
        for module in SHAPES:
            mean = sum(b.num_examples / 18 * product(model, module) for b, model in zip(banks, models, strict=True))
            assert (product(state.adapter, module) - mean).norm() < 1e-12 * mean.norm()
            a = state.adapter.tensors[f"{module}.A"]
            assert close(a @ a.T, torch.eye(2, dtype=torch.float64))
            gram = state.adapter.tensors[f"{module}.B"].T @ state.adapter.tensors[f"{module}.B"]
            assert close(gram, gram.diagonal().diag())  # B = U S


def test_a_zero_product_leaves_a_usable() -> None:
    strategy, banks = STRATEGIES.create("fedsvd", {}), new_banks()
    state = strategy.init(new_adapter(), infos(banks), seed=1)
    state = strategy.aggregate(state, exchange_all(strategy, state, banks, {}, Local(num_steps=0)))
    a = state.adapter.tensors["q.A"]
    assert close(a @ a.T, torch.eye(2, dtype=torch.float64))


def test_a_rank_above_the_layers_smaller_side_keeps_rows_that_can_train() -> None:
    strategy, banks = STRATEGIES.create("fedsvd", {}), new_banks()
    state = strategy.init(new_adapter(rank=4), infos(banks, ranks=[4] * 3), seed=1)
    after = strategy.aggregate(state, exchange_all(strategy, state, banks, {}, Local()))
    assert torch.equal(after.adapter.tensors["q.A"][3], state.adapter.tensors["q.A"][3])
    assert not after.adapter.tensors["q.B"][:, 3].any()
