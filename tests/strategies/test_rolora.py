from __future__ import annotations

import torch

from fedsim.strategies import STRATEGIES
from tests.strategies.toy import HEAD, infos, new_adapter, new_banks, play


def test_b_first_then_a_and_the_other_factor_is_bitwise_constant() -> None:
    strategy, banks = STRATEGIES.create("rolora", {}), new_banks()
    states = [strategy.init(new_adapter(), infos(banks), seed=1)]
    for _ in range(4):
        states.append(play(strategy, states[-1], banks))
    for before, after, moving, frozen in zip(states, states[1:], "BABA", "ABAB", strict=False):
        for module in ("q", "v"):
            still = f"{module}.{frozen}"
            assert torch.equal(before.adapter.tensors[still], after.adapter.tensors[still])
            moved = f"{module}.{moving}"
            assert not torch.equal(before.adapter.tensors[moved], after.adapter.tensors[moved])
        assert not torch.equal(before.adapter.tensors[HEAD], after.adapter.tensors[HEAD])
