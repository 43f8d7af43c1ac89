"""What DP noise on the factors does to the weight change, against closed forms (algorithms 0.4: noise on both factors).

With independent N(0, sigma^2) on every entry of B (d_out, r) and A (r, d_in):

    E |s (B + N_B)(A + N_A) - s B A|^2 = s^2 (sigma^2 (d_out |A|^2 + d_in |B|^2) + sigma^4 d_out d_in r)

The last term is why freezing a factor pays under DP. Over K equal banks it falls as 1 / K^2 where factors are averaged
and as 1 / K where products are: exact aggregation is exact for the noise, too.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fedsim.core.adapter import AdapterState, product
from fedsim.core.messages import Exchange, Update
from fedsim.strategies import STRATEGIES
from tests.strategies.toy import SHAPES, draw, infos, new_adapter, new_banks

SIGMA, NUM_BANKS, DRAWS = 0.5, 4, 120


def noise(*shape: int, seed: int) -> Tensor:
    return SIGMA * draw(*shape, seed=seed)


def test_noise_on_both_factors() -> None:
    d_out, d_in, rank, scaling, number = 5, 3, 2, 1.5, 20_000
    a, b = draw(rank, d_in, seed=1), draw(d_out, rank, seed=2)
    noisy = (b + noise(number, d_out, rank, seed=3)) @ (a + noise(number, rank, d_in, seed=4))
    found = scaling**2 * float((noisy - b @ a).square().sum()) / number
    linear = SIGMA**2 * float(d_out * a.square().sum() + d_in * b.square().sum())
    assert found == pytest.approx(scaling**2 * (linear + SIGMA**4 * d_out * d_in * rank), rel=0.02)


def mean_square_of_change(kind: str, start: AdapterState) -> float:
    """Mean |change of the served weights|^2 over draws in which every bank's update is noise alone."""
    strategy, banks = STRATEGIES.create(kind, {}), new_banks((1,) * NUM_BANKS)
    state = strategy.init(start, infos(banks), seed=1)
    before, found = {m: product(strategy.serve(state), m) for m in SHAPES}, []
    for trial in range(DRAWS):
        exchanges = []
        for number, bank in enumerate(state.banks):
            job = strategy.configure(state, bank.name, seed=1)
            own = (
                strategy.rule().start(job, {}).tensors
            )  # FLoRA: drawn afresh, as if the bank had ended at the server's
            names = sorted(name for name in own if strategy.rule().trains(name, 0))
            seeds = {name: 1000 * trial + 10 * number + index for index, name in enumerate(names)}
            delta = {n: start.tensors[n] - own[n] + noise(*own[n].shape, seed=seeds[n]) for n in names}
            exchanges.append(Exchange(job, Update(bank.name, delta, 1, 1)))
        after = strategy.aggregate(state, exchanges)
        total = {m: product(strategy.serve(after), m) + sum(product(f, m) for f in after.frozen) for m in SHAPES}
        found.append(sum(float((total[m] - before[m]).square().sum()) for m in SHAPES))
    return math.fsum(found) / DRAWS


@pytest.mark.parametrize(("kind", "power"), [("fedavg", 2), ("fedex_lora", 1), ("flora", 1)])
def test_the_quadratic_term_falls_with_the_banks_as_factors_or_products_are_averaged(kind: str, power: int) -> None:
    start = new_adapter(rank=2, scaling=2.0)
    start = start.with_tensors({name: torch.zeros_like(tensor) for name, tensor in start.tensors.items()})
    alone = 2.0**2 * SIGMA**4 * 2 * sum(d_out * d_in for d_out, d_in in SHAPES.values())
    assert mean_square_of_change(kind, start) == pytest.approx(alone / NUM_BANKS**power, rel=0.25)


def test_a_frozen_factor_leaves_no_quadratic_term() -> None:
    """From B = 0 with A fixed: E |s mean(N_B) A|^2 = s^2 sigma^2 d_out |A|^2 / K."""
    start = new_adapter(rank=2, scaling=2.0)
    alone = sum(
        4 * SIGMA**2 * d_out * float(start.tensors[f"{m}.A"].square().sum()) for m, (d_out, _) in SHAPES.items()
    )
    assert mean_square_of_change("ffa_lora", start) == pytest.approx(alone / NUM_BANKS, rel=0.25)
