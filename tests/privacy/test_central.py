"""Banks that trust the server: what it gives on is the noisy mean of clipped updates, charged to every bank."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from fedsim.core.adapter import AdapterState, flatten, norm
from fedsim.core.messages import Exchange, Spend, TrainJob, Update
from fedsim.privacy import MECHANISMS, Curator, mechanism_for
from fedsim.privacy.accounting import pld_epsilon, rdp_epsilon
from fedsim.privacy.base import BankPlan
from fedsim.privacy.dp_bank_adaptive import BOUND, mean_noise

K = 10
NAMES = [f"bank-{k}" for k in range(K)]
PLAN = BankPlan("bank-0", 100, 16, steps_per_round=5, num_rounds=10, num_banks=K)
SHAPES = {"m.A": (4, 500), "m.B": (700, 4)}


def curator(kind: str = "dp_bank_central", plan: BankPlan = PLAN, **knobs: float) -> Curator:
    knobs = {"noise_multiplier": 0.0, "max_update_norm": 0.5, "dp_delta": 1e-5, **knobs}
    made = MECHANISMS[kind].curator({"bank-0": mechanism_for(kind, knobs, plan)})
    assert made is not None
    return made


def exchange(bank: str, tensors: dict[str, torch.Tensor], num_examples: int = 100, round_: int = 0) -> Exchange:
    job = TrainJob(round_, bank, AdapterState({}, 4, 1.0), seed=1000 + round_)
    return Exchange(job, Update(bank, tensors, num_examples, 5))


def blank(round_: int = 0) -> Exchange:
    return exchange("bank-0", {name: torch.zeros(shape) for name, shape in SHAPES.items()}, 1, round_)


def updates(scale: float) -> list[Exchange]:
    """One from every bank, of norm ``scale`` times the number of the bank, from banks of very unequal size."""
    draw = torch.Generator().manual_seed(1)
    made = []
    for number, name in enumerate(NAMES):
        tensors = {key: torch.randn(shape, generator=draw) for key, shape in SHAPES.items()}
        share = scale * number / norm(tensors)
        made.append(exchange(name, {key: share * tensor for key, tensor in tensors.items()}, 10**number))
    return made


def mean_of(made: Curator, exchanges: list[Exchange], round_: int = 0) -> torch.Tensor:
    return flatten(made.release(exchanges, blank(round_), {})[0].update.delta).double()


def test_one_bank_moves_the_mean_by_at_most_the_bound_over_their_number() -> None:
    whole = mean_of(curator(), updates(0.2))
    for left_out in range(K):
        others = [exchange for number, exchange in enumerate(updates(0.2)) if number != left_out]
        moved = float((whole - mean_of(curator(), others)).norm())
        assert moved == pytest.approx(min(0.5, 0.2 * left_out) / K, rel=1e-4, abs=1e-9)


def test_banks_weigh_the_same_whatever_their_number_of_rows() -> None:
    equal = [replace(each, update=replace(each.update, num_examples=1)) for each in updates(0.2)]
    assert torch.equal(mean_of(curator(), updates(0.2)), mean_of(curator(), equal))


def test_the_noise_of_the_mean_is_what_the_ledger_charges() -> None:
    made = curator(noise_multiplier=3.0)
    noise = torch.cat([mean_of(made, updates(0.2), r) - mean_of(curator(), updates(0.2), r) for r in range(20)])
    sensitivity = 0.5 / K
    assert made.spend() == Spend(3.0, 1.0, 1)
    assert float(noise.std()) / sensitivity == pytest.approx(made.spend().noise_multiplier, rel=0.01)
    assert not torch.equal(noise[: len(noise) // 20], noise[-len(noise) // 20 :])


def test_a_round_without_banks_is_noised_too() -> None:
    assert float(mean_of(curator(noise_multiplier=3.0), []).std()) == pytest.approx(3 * 0.5 / K, rel=0.05)


def test_banks_are_drawn_independently_and_the_divisor_is_their_expected_number() -> None:
    made = curator(plan=replace(PLAN, bank_rate=0.3))
    cohorts = [made.cohort(NAMES, 7, round_) for round_ in range(600)]
    assert cohorts[:5] == [made.cohort(NAMES, 7, round_) for round_ in range(5)]
    sizes = torch.tensor([float(len(cohort)) for cohort in cohorts])
    assert [] in cohorts
    assert float(sizes.mean()) == pytest.approx(3, abs=0.25)
    assert float(sizes.var()) == pytest.approx(10 * 0.3 * 0.7, rel=0.25)
    assert made.spend() == Spend(0.0, 0.3, 1)
    assert torch.allclose(mean_of(made, updates(0.2)), mean_of(curator(), updates(0.2)) / 0.3)
    assert curator().cohort(NAMES, 7, 0) == NAMES


@pytest.mark.parametrize(("rounds", "noise"), [(1, 3.7306), (10, 11.797), (100, 37.306)])
def test_the_noise_that_epsilon_one_takes(rounds: int, noise: float) -> None:
    """Exact Gaussian composition at delta 1e-5; the tight accountant finds it to a percent."""
    plan = replace(PLAN, num_rounds=rounds)
    mechanism = mechanism_for("dp_bank_central", {"dp_epsilon": 1.0, "dp_delta": 1e-5, "accountant": "pld"}, plan)
    spend = mechanism.spend(5)
    assert spend is not None
    assert noise <= spend.noise_multiplier < 1.01 * noise
    assert pld_epsilon([replace(spend, num_steps=rounds)], 1e-5).epsilon <= 1.0


# ------------------------------------------------------------------------------------------------- a bound that follows


def adaptive(noise: float = 0.0, count_noise: float = 5.0, plan: BankPlan = PLAN) -> Curator:
    return curator("dp_bank_adaptive", plan, noise_multiplier=noise, count_noise=count_noise, max_update_norm=0.1)


def ones() -> list[Exchange]:
    value = 1 / math.sqrt(4 * 500 + 4 * 700)
    tensors = {name: torch.full(shape, value) for name, shape in SHAPES.items()}
    return [exchange(name, {key: tensor / norm(tensors) for key, tensor in tensors.items()}) for name in NAMES]


def test_adaptive_clip_direction() -> None:
    """Norms of 1 from a bound of 0.1: up by e^0.1 a round, then round the quantile. (The sign is easily inverted.)"""
    made, slots, bounds = adaptive(), {}, []
    for round_ in range(60):
        _, slots = made.release(ones(), blank(round_), slots)
        bounds.append(float(slots[BOUND]))
    assert bounds[0] == pytest.approx(0.1 * math.exp(0.1))
    assert bounds[23] == pytest.approx(1.1023, abs=1e-4)
    assert sorted({round(bound, 4) for bound in bounds[24:]}) == [0.9974, 1.1023]


@pytest.mark.parametrize(
    ("noise", "count_noise", "left"), [(1, 5, 1.005038), (1, 1, 1.154701), (0.5, 0.5, 0.577350), (0.3, 0.2, 0.453557)]
)
def test_adaptive_clip_budget(noise: float, count_noise: float, left: float) -> None:
    assert mean_noise(noise, count_noise) == pytest.approx(left, abs=1e-6)
    together = rdp_epsilon([Spend(left, 1.0, 1), Spend(2 * count_noise, 1.0, 1)], 1e-5)
    assert together == pytest.approx(rdp_epsilon([Spend(noise, 1.0, 1)], 1e-5), rel=1e-5)


@pytest.mark.parametrize(("noise", "banks"), [(1.0, 10), (0.4, 4)])
def test_adaptive_clip_infeasible_is_refused(noise: float, banks: int) -> None:
    plan = replace(PLAN, num_banks=banks)
    config = MECHANISMS.config("dp_bank_adaptive").model_validate({"noise_multiplier": noise, "dp_delta": 1e-5})
    (problem,) = MECHANISMS["dp_bank_adaptive"].problems(config, [plan])
    assert f"count_noise {banks / 20:g} leaves nothing of noise_multiplier {noise:g}" in problem
    enough = config.model_copy(update={"count_noise": 2.0})
    assert MECHANISMS["dp_bank_adaptive"].problems(enough, [plan]) == []


def test_clip_and_noise_use_the_bound_of_the_round() -> None:
    slots = {BOUND: torch.tensor([0.7], dtype=torch.float64)}
    quiet, after = adaptive().release(ones(), blank(), slots)
    assert norm(quiet.update.delta) == pytest.approx(0.7, rel=1e-5)
    assert float(after[BOUND]) != 0.7
    loud, _ = adaptive(noise=2.0).release(ones(), blank(), slots)
    noise = (flatten(loud.update.delta) - flatten(quiet.update.delta)).double()
    assert float(noise.std()) == pytest.approx(mean_noise(2.0, 5.0) * 0.7 / K, rel=0.05)
    assert adaptive(noise=2.0).spend() == Spend(2.0, 1.0, 1)


def test_the_count_is_noised_as_charged() -> None:
    made = adaptive(noise=2.0, count_noise=5.0)
    moved = []
    for round_ in range(400):
        slots = {BOUND: torch.tensor([2.0], dtype=torch.float64)}
        bound = float(made.release(ones(), blank(round_), slots)[1][BOUND])
        moved.append(-math.log(bound / 2.0) / 0.2 + 0.5)  # the noisy share of unclipped updates, here 1
    shares = torch.tensor(moved, dtype=torch.float64)
    assert float(shares.mean()) == pytest.approx(1.0, abs=4 * 0.5 / 20)
    assert float(shares.std()) == pytest.approx(5.0 / K, rel=0.15)
