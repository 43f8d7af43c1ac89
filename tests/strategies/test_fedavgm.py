from __future__ import annotations

import torch

from fedsim.strategies import STRATEGIES
from tests.strategies.toy import answer, close, infos, new_adapter, new_banks, play, scalar_adapter, scalar_bank


def test_no_momentum_is_fedavg() -> None:
    banks, ends = new_banks(), []
    for name, knobs in (("fedavgm", {"beta": 0, "server_lr": 1}), ("fedavg", {})):
        strategy = STRATEGIES.create(name, knobs)
        ends.append(play(strategy, strategy.init(new_adapter(), infos(banks), seed=1), banks, num_rounds=3).adapter)
    assert all(torch.equal(ends[0].tensors[name], ends[1].tensors[name]) for name in ends[0].tensors)


def test_steps_of_a_constant_change_grow_to_delta_over_one_minus_beta() -> None:
    """First steps by hand for Delta = .05, beta = .9: .05, .095, .1355; limit .5."""
    strategy = STRATEGIES.create("fedavgm", {"beta": 0.9})
    state = strategy.init(scalar_adapter(), infos([scalar_bank("a", 1, 0)]), seed=1)
    steps = []
    for _ in range(300):
        x = float(state.adapter.tensors["head.x"])
        state = strategy.aggregate(state, answer(strategy, state, [scalar_adapter(x + 0.05)], [3]))
        steps.append(float(state.adapter.tensors["head.x"]) - x)
    assert close(torch.tensor(steps[:3]), torch.tensor([0.05, 0.095, 0.1355]), 1e-6)
    assert abs(steps[-1] - 0.5) < 1e-9
