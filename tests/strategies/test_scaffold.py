from __future__ import annotations

import pytest
import torch

from fedsim.core.adapter import weighted_mean
from fedsim.strategies import STRATEGIES
from tests.strategies.toy import Local, close, infos, new_adapter, new_banks, play, scalar_adapter, scalar_bank

TEN_STEPS = Local(lr=0.05, num_steps=10)


@pytest.mark.parametrize(("name", "x"), [("fedavg", 0.6898783), ("scaffold", 0.8)])
def test_fixed_point_on_two_quadratics(name: str, x: float) -> None:
    """Curvatures 1 and 4, optima 0 and 1: the optimum of the mean is .8."""
    strategy = STRATEGIES.create(name, {})
    banks = [scalar_bank("a", 1.0, 0.0), scalar_bank("b", 4.0, 1.0)]
    state = strategy.init(scalar_adapter(), infos(banks), seed=1)
    state = play(strategy, state, banks, num_rounds=80, local=TEN_STEPS)
    assert float(state.adapter.tensors["head.x"]) == pytest.approx(x, abs=1e-7)


def test_unequal_banks_reach_the_optimum_of_the_weighted_mean() -> None:
    """Weights 3/4 and 1/4: (3/4 * 0 + 1/4 * 4) / (3/4 + 1) = 4/7."""
    strategy = STRATEGIES.create("scaffold", {})
    banks = [scalar_bank("a", 1.0, 0.0, num_examples=3), scalar_bank("b", 4.0, 1.0, num_examples=1)]
    state = strategy.init(scalar_adapter(), infos(banks), seed=1)
    state = play(strategy, state, banks, num_rounds=120, local=TEN_STEPS)
    assert float(state.adapter.tensors["head.x"]) == pytest.approx(4 / 7, abs=1e-7)


def test_server_control_is_the_mean_of_the_banks_controls() -> None:
    strategy, banks, kept = STRATEGIES.create("scaffold", {}), new_banks(), {}
    state = strategy.init(new_adapter(), infos(banks), seed=1)
    zero = {name: torch.zeros_like(c) for name, c in state.slots.items()}
    for present in (banks, banks[:2], banks[1:]):
        state = play(strategy, state, present, kept=kept)
        mean = weighted_mean([kept.get(bank.name, zero) for bank in banks], [bank.num_examples for bank in banks])
        assert all(close(state.slots[name], mean[name]) for name in mean)
        assert any(c.norm() > 0.1 for c in mean.values())


def test_first_round_is_fedavg() -> None:
    banks, ends = new_banks(), []
    for name in ("scaffold", "fedavg"):
        strategy = STRATEGIES.create(name, {})
        ends.append(play(strategy, strategy.init(new_adapter(), infos(banks), seed=1), banks).adapter)
    assert all(close(ends[0].tensors[name], ends[1].tensors[name]) for name in ends[0].tensors)


def test_control_by_hand() -> None:
    """One step of lr .05 from x = 0 with gradient 4 (0 - 1) = -4: y = .2, and c_k = (x - y) / lr = -4."""
    strategy, kept = STRATEGIES.create("scaffold", {}), {}
    banks = [scalar_bank("b", 4.0, 1.0)]
    state = strategy.init(scalar_adapter(), infos(banks), seed=1)
    state = play(strategy, state, banks, local=Local(lr=0.05, num_steps=1), kept=kept)
    assert float(state.adapter.tensors["head.x"]) == pytest.approx(0.2)
    assert float(kept["b"]["control/head.x"]) == pytest.approx(-4)
    assert float(state.slots["control/head.x"]) == pytest.approx(-4)


def test_only_plain_sgd_is_declared() -> None:
    assert STRATEGIES["scaffold"].sheet.needs_sgd
