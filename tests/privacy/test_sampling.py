"""The sampler hands the accountant its type: what is drawn is charged, and nothing else amplifies."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.core.messages import Spend
from fedsim.privacy import MECHANISMS, mechanism_for
from fedsim.privacy.accounting import ORDERS, calibrate, merged, pld_epsilon, rdp_epsilon, renyi_curve
from fedsim.privacy.base import BankPlan, Curator
from fedsim.privacy.ledger import Charge, Ledger
from fedsim.privacy.sources import Seeded
from fedsim.train.sampling import fixed_rows
from fedsim.train.trainer import Trainer
from tests import tiny
from tests.privacy import checks

PLAN = BankPlan("bank-01", num_examples=2000, batch_size=32, steps_per_round=20, num_rounds=10, sampling="fixed")
KNOBS = {"noise_multiplier": 2.0, "max_grad_norm": 0.01, "dp_delta": 1e-5}
BANKS = [f"bank-{k}" for k in range(10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_llama(tmp_path_factory.mktemp("llama"))


def fixed_trainer(folder: Path, size: int, noise: float) -> Trainer:
    """A bank of eight rows that trains on exactly ``size`` of them."""
    made = checks.make_trainer(folder, noise)
    plan = replace(made.local.mechanisms["bank"].plan, batch_size=size, sampling="fixed")
    knobs = {**KNOBS, "noise_multiplier": noise, "dp_delta": 1e-2}
    mechanisms = {"bank": mechanism_for("dp_sgd", knobs, plan)}
    return Trainer(made.model, made.rows, replace(made.local, mechanisms=mechanisms))


# ---------------------------------------------------------------------------------------------------------------- draws


def test_a_sample_of_fixed_size_has_that_size_and_every_row_the_same_chance() -> None:
    rows = np.arange(100, 120)
    draws = [fixed_rows(rows, 5, Seeded(1, "batch", step)) for step in range(2000)]
    assert {len(drawn) for drawn in draws} == {5}
    assert all(len(set(drawn.rows)) == 5 and (np.diff(drawn.rows) > 0).all() for drawn in draws)
    counts = np.bincount(np.concatenate([drawn.rows for drawn in draws]), minlength=120)[100:]
    assert np.abs(counts - 500).max() < 5 * math.sqrt(2000 * 0.25 * 0.75)
    pairs = sum({100, 119} <= set(drawn.rows) for drawn in draws)  # without replacement: 5/20 * 4/19
    assert abs(pairs - 2000 * 5 / 20 * 4 / 19) < 5 * math.sqrt(105)
    assert fixed_rows(rows, 50, Seeded(1, "batch", 0)).rows.tolist() == rows.tolist()


def test_the_trainer_draws_the_fixed_number(folder) -> None:
    """Equal rows, each clipped to C: the released sum is exactly as long as rows were drawn."""
    short = np.arange(checks.NUM_ROWS - 1)
    for seed in range(3):
        released = checks.released(checks.with_rows(fixed_trainer(folder, 3, 0.0), short), seed)
        assert float(released.norm()) == pytest.approx(3 * 0.01, rel=1e-4)


def test_one_row_replaced_moves_a_sample_of_fixed_size_by_at_most_twice_the_bound(folder) -> None:
    trainer = fixed_trainer(folder, 4, 0.0)
    moved = []
    for seed in range(6):
        one, other = (checks.released(checks.with_rows(trainer, np.array([0, 1, 2, 3, 4, x])), seed) for x in (5, 7))
        moved.append(float((one - other).norm()))
    assert max(moved) <= 2 * 0.01 * (1 + 1e-4)
    assert max(moved) > 0.01  # more than what a row added or removed may do


# -------------------------------------------------------------------------------------------------------------- charges


def test_a_fixed_sample_is_charged_as_such_and_with_half_the_noise(folder) -> None:
    assert mechanism_for("dp_sgd", KNOBS, PLAN).spend(20) == Spend(1.0, 0.016, 20, "fixed")
    trainer = fixed_trainer(folder, 4, 2.0)
    charged = trainer.local.mechanisms["bank"].spend(1)
    empty = checks.with_rows(trainer, np.zeros(0, dtype=np.int64))
    noise = torch.cat([checks.released(empty, seed) for seed in range(8)])
    assert float(noise.std()) / (2 * 0.01) == pytest.approx(charged.noise_multiplier, rel=0.03)


def test_rows_of_a_fixed_sample_need_more_noise_for_the_same_epsilon() -> None:
    knobs = {"dp_epsilon": 3.0, "dp_delta": 1e-5}
    fixed, poisson = (mechanism_for("dp_sgd", knobs, replace(PLAN, sampling=kind)) for kind in ("fixed", "poisson"))
    assert fixed.noise_multiplier > 2 * poisson.noise_multiplier
    assert 2.99 < rdp_epsilon([replace(fixed.spend(20), num_steps=200)], 1e-5) <= 3.0


@pytest.mark.parametrize("bank_rate", [0.1, 1.0])
@pytest.mark.parametrize("kind", ["dp_sgd", "dp_sgd_customer", "dp_bank_local", "batch_clip_gaussian"])
def test_banks_that_are_seen_to_take_part_are_amplified_by_nothing(kind, bank_rate) -> None:
    plan = replace(PLAN, sampling="poisson", num_banks=10, num_units=500)
    knobs = {"noise_multiplier": 2.0, "dp_delta": 1e-5}
    spend = mechanism_for(kind, knobs, replace(plan, bank_rate=bank_rate)).spend(20)
    assert spend == mechanism_for(kind, knobs, plan).spend(20)
    assert spend.sample_rate == (0.016 if MECHANISMS[kind].per_row else 1.0)


def test_full_participation_is_charged_without_amplification() -> None:
    whole = replace(PLAN, batch_size=2000, sampling="poisson")
    assert mechanism_for("dp_sgd", KNOBS, whole).spend(20) == Spend(2.0, 1.0, 20)


def cohort_curator(plan: BankPlan, **knobs: object) -> Curator:
    mechanism = mechanism_for("dp_bank_central", {"noise_multiplier": 3.0, "dp_delta": 1e-5, **knobs}, plan)
    made = MECHANISMS["dp_bank_central"].curator({plan.name: mechanism})
    assert made is not None
    return made


def test_cohorts_of_fixed_size_are_drawn_and_charged_so() -> None:
    plan = replace(PLAN, num_banks=10, bank_rate=0.3)
    fixed, poisson = cohort_curator(plan, cohort="fixed"), cohort_curator(plan)
    cohorts = [fixed.cohort(BANKS, 7, round_) for round_ in range(300)]
    assert {len(cohort) for cohort in cohorts} == {3}
    assert all(cohort == sorted(cohort) for cohort in cohorts)
    assert min(sum(bank in cohort for cohort in cohorts) for bank in BANKS) > 50
    assert fixed.spend() == Spend(1.5, 0.3, 1, "fixed")
    assert poisson.spend() == Spend(3.0, 0.3, 1)
    assert len({len(poisson.cohort(BANKS, 7, round_)) for round_ in range(50)}) > 2


def test_customers_are_not_drawn_in_fixed_numbers() -> None:
    config = MECHANISMS.config("dp_sgd_customer").model_validate(KNOBS)
    (problem,) = MECHANISMS["dp_sgd_customer"].problems(config, [replace(PLAN, num_units=500)])
    assert "Poisson sampling only" in problem


# ----------------------------------------------------------------------------------------------------------- accounting


def test_renyi_curve_of_a_fixed_sample_by_hand() -> None:
    """Order 2: log(1 + q^2 min(4 (e^(1/s^2) - 1), 2 e^(1/s^2))); order 1.5 lies on the chord from (1, 0)."""
    q, s = 0.1, 2.0
    second = math.log(1 + q**2 * min(4 * (math.exp(1 / s**2) - 1), 2 * math.exp(1 / s**2)))
    curve = renyi_curve(s, q, "fixed")
    assert curve[ORDERS.index(2.0)] == pytest.approx(second)
    assert curve[ORDERS.index(1.5)] == pytest.approx(0.5 * second / 0.5)
    third = math.log(1 + 3 * (math.exp(second) - 1) + 2 * q**3 * math.exp(2 * 3 / (2 * s**2))) / 2
    assert curve[ORDERS.index(3.0)] == pytest.approx(third)


def test_a_fixed_sample_of_everything_is_the_plain_gaussian() -> None:
    assert np.allclose(renyi_curve(1.7, 1.0, "fixed"), renyi_curve(1.7, 1.0))
    assert pld_epsilon([Spend(2.0, 1.0, 10, "fixed")], 1e-5) == pld_epsilon([Spend(2.0, 1.0, 10)], 1e-5)


def test_a_fixed_sample_costs_more_and_has_no_tight_value() -> None:
    fixed, poisson = Spend(1.0, 0.016, 200, "fixed"), Spend(1.0, 0.016, 200)
    assert rdp_epsilon([fixed], 1e-5) > rdp_epsilon([poisson], 1e-5)
    assert pld_epsilon([fixed], 1e-5) == (rdp_epsilon([fixed], 1e-5), "rdp")
    assert pld_epsilon([poisson, fixed], 1e-5).method == "rdp"
    assert len(merged([fixed, poisson, fixed])) == 2
    noise = calibrate(2.0, 1e-5, fixed)
    assert 1.99 < rdp_epsilon([replace(fixed, noise_multiplier=noise)], 1e-5) <= 2.0
    assert rdp_epsilon([replace(fixed, noise_multiplier=0.0)], 1e-5) == math.inf


def test_the_ledger_remembers_how_was_sampled() -> None:
    ledger = Ledger()
    ledger.intend(Charge(1, "x", {"a": Spend(1.0, 0.016, 200, "fixed"), "b": Spend(1.0, 0.016, 200)}))
    assert ledger.epsilon("a") > ledger.epsilon("b")
    assert ledger.spent("a") == [Spend(1.0, 0.016, 200, "fixed")]
