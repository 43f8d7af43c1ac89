from __future__ import annotations

import pytest
import torch

from fedsim.strategies import STRATEGIES
from tests.strategies.toy import (
    Local,
    exchange_all,
    infos,
    new_adapter,
    new_banks,
    play,
    scalar_adapter,
    scalar_bank,
)

SOLVED = Local(lr=0.1, num_steps=400)  # an exact local solve of the scalar banks


def fixed_point(mu: float) -> float:
    """A round is an affine map of x, so two rounds tell where it stays."""
    strategy = STRATEGIES.create("fedprox", {"mu": mu})
    banks = [scalar_bank("a", 1.0, 0.0), scalar_bank("b", 4.0, 1.0)]
    at = [strategy.init(scalar_adapter(x), infos(banks), seed=1) for x in (0.0, 1.0)]
    f0, f1 = (float(play(strategy, state, banks, local=SOLVED).adapter.tensors["head.x"]) for state in at)
    return f0 / (1 - (f1 - f0))


@pytest.mark.parametrize(("mu", "x"), [(0, 0.5), (0.1, 0.517647), (1, 0.615385), (10, 0.758621)])
def test_fixed_points(mu: float, x: float) -> None:
    assert fixed_point(mu) == pytest.approx(x, abs=1e-6)


def test_mu_0_is_fedavg_bit_for_bit() -> None:
    banks = new_banks()
    ends = []
    for name, knobs in (("fedprox", {"mu": 0}), ("fedavg", {})):
        strategy = STRATEGIES.create(name, knobs)
        ends.append(play(strategy, strategy.init(new_adapter(), infos(banks), seed=1), banks, num_rounds=2).adapter)
    assert all(torch.equal(ends[0].tensors[name], ends[1].tensors[name]) for name in ends[0].tensors)


def test_a_large_mu_holds_the_banks_in_place() -> None:
    banks, lengths = new_banks(), []
    for mu in (0.0, 10.0, 100.0):
        strategy = STRATEGIES.create("fedprox", {"mu": mu})
        state = strategy.init(new_adapter(zero_b=False), infos(banks), seed=1)
        exchanges = exchange_all(strategy, state, banks, {}, Local(lr=5e-3, num_steps=100))
        lengths.append(sum(float(delta.norm()) for delta in exchanges[0].update.delta.values()))
    assert lengths[0] > lengths[1] > 3 * lengths[2]
