"""Each mode against its own ledger: what is charged is the measured noise over the measured worst sensitivity."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.core.adapter import flatten, norm, subtract
from fedsim.core.errors import FedsimError
from fedsim.core.messages import Spend, TrainJob
from fedsim.core.sections import Train
from fedsim.privacy import MECHANISMS, Mechanism, mechanism_for
from fedsim.privacy.accounting import pld_epsilon, rdp_epsilon
from fedsim.privacy.base import BankPlan
from fedsim.privacy.sources import Seeded
from fedsim.strategies.base import LocalRule, Outcome
from fedsim.train.sampling import Drawn, poisson_units
from fedsim.train.trainer import Trainer
from tests import tiny
from tests.privacy import checks

PLAN = BankPlan("bank-01", num_examples=2000, batch_size=32, steps_per_round=20, num_rounds=10, num_units=500)
UPDATE = {"m.A": torch.randn(4, 50, generator=torch.Generator().manual_seed(1)), "m.B": torch.ones(70, 4)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_llama(tmp_path_factory.mktemp("llama"))


def with_mechanism(trainer: Trainer, kind: str, units: np.ndarray | None = None, **knobs: float) -> Trainer:
    """The same model and rows under another mechanism; its public plan stays."""
    plan = trainer.local.mechanisms["bank"].plan
    if units is not None:
        plan = replace(plan, num_units=len(np.unique(units)))
    mechanism = mechanism_for(kind, {"dp_delta": 1e-2, **knobs}, plan)
    local = replace(trainer.local, mechanisms={"bank": mechanism}, units=units)
    return Trainer(trainer.model, trainer.rows, local)


# ------------------------------------------------------------------------------------------------------- customer level

OWNERS = np.array([0, 0, 0, 0, 1, 1, 2, 3])  # of the eight rows


def test_a_customer_is_drawn_with_all_rows_up_to_the_limit() -> None:
    rows, owners = np.arange(100, 300), np.repeat(np.arange(40), 5)
    sizes, customers = [], []
    for step in range(300):
        drawn = poisson_units(rows, owners, 0.2, 3, Seeded(1, "batch", step))
        assert (np.diff(drawn.units) >= 0).all()
        assert set(owners[drawn.rows - 100]) == set(drawn.units)
        counts = np.bincount(drawn.units, minlength=40)
        assert set(counts) <= {0, 3}
        sizes.append(len(drawn))
        customers.append(np.count_nonzero(counts))
    assert np.mean(customers) == pytest.approx(8, abs=4 * math.sqrt(40 * 0.16 / 300))
    assert np.var(customers) == pytest.approx(40 * 0.16, rel=0.35)
    first = poisson_units(rows, owners, 1.0, 3, Seeded(1, "batch", 0))
    assert len(set(first.rows)) == 120
    assert set(first.rows) != set(poisson_units(rows, owners, 1.0, 3, Seeded(1, "batch", 1)).rows)


def customer_trainer(folder: Path, bound: float, most: int = 8, max_rows: int = 256) -> Trainer:
    trainer = with_mechanism(
        checks.make_trainer(folder, 0.0),
        "dp_sgd_customer",
        OWNERS,
        noise_multiplier=0.0,
        max_grad_norm=bound,
        max_rows_per_customer=most,
    )
    train = Train(local_steps=1, optimizer="sgd", lr=1.0, max_rows=max_rows)
    return Trainer(trainer.model, trainer.rows, replace(trainer.local, train=train))


def customer_sum(trainer: Trainer, rows: np.ndarray) -> torch.Tensor:
    """The released sum over customers."""
    delta = trainer_delta(checks.with_rows(trainer, rows))
    return -delta * trainer.local.mechanisms["bank"].divisor


def trainer_delta(trainer: Trainer, seed: int = 1) -> torch.Tensor:
    job = TrainJob(0, "bank", trainer.new_adapter(3), seed=seed)
    return flatten(trainer.train([job], [{}])[0].outcome.delta).double()


@pytest.mark.parametrize("max_rows", [1, 3, 256])
def test_a_customers_rows_are_one_unit_whatever_a_forward_pass_holds(folder, max_rows) -> None:
    """All rows of a customer more or less move the sum by at most C, and by exactly C where it is clipped."""
    trainer = customer_trainer(folder, bound=0.01, max_rows=max_rows)
    whole = customer_sum(trainer, np.arange(8))
    for customer in range(4):
        moved = float((whole - customer_sum(trainer, np.flatnonzero(customer != OWNERS))).norm())
        assert moved == pytest.approx(0.01, rel=1e-3)


def test_rows_as_units_would_let_a_customer_move_the_sum_by_more(folder) -> None:
    """The positive control: under dp_sgd the customer of four rows moves it by four bounds."""
    trainer = checks.make_trainer(folder, noise=0.0, bound=0.01)
    moved = checks.released(trainer) - checks.released(checks.with_rows(trainer, np.arange(4, 8)))
    assert float(moved.norm()) == pytest.approx(0.04, rel=1e-3)


def test_an_unclipped_customer_counts_by_the_mean_of_its_rows(folder) -> None:
    trainer = customer_trainer(folder, bound=1e6)
    four, one = customer_sum(trainer, np.arange(4)), customer_sum(trainer, np.arange(1))
    assert float((four - one).norm() / one.norm()) < 1e-4  # equal rows
    assert trainer.local.mechanisms["bank"].divisor == 4  # customers, not rows


def test_customers_are_charged_like_rows_and_need_a_column() -> None:
    knobs = {"noise_multiplier": 1.5, "max_grad_norm": 0.5, "dp_delta": 1e-5}
    customers = mechanism_for("dp_sgd_customer", knobs, PLAN)
    assert customers.spend(20) == mechanism_for("dp_sgd", knobs, PLAN).spend(20) == Spend(1.5, 0.016, 20)
    assert customers.divisor == pytest.approx(0.016 * 500)
    config = MECHANISMS.config("dp_sgd_customer").model_validate(knobs)
    without = replace(PLAN, num_units=None)
    assert "whose they are" in MECHANISMS["dp_sgd_customer"].problems(config, [without])[0]
    config = config.model_copy(update={"dp_delta": 1e-3})
    assert MECHANISMS["dp_sgd_customer"].problems(config, [PLAN]) == []
    config = config.model_copy(update={"dp_delta": 1 / 400})
    assert MECHANISMS["dp_sgd_customer"].problems(config, [PLAN]) == [
        "delta 0.0025 >= 1/500 (smallest bank); use <= 0.0001"
    ]


# ------------------------------------------------------------------------------------------------------------ the batch


def batch_trainer(folder: Path, noise: float, bound: float) -> Trainer:
    trainer = checks.make_trainer(folder, 0.0)
    return with_mechanism(trainer, "batch_clip_gaussian", noise_multiplier=noise, max_grad_norm=bound)


def test_the_batchs_mean_gradient_is_clipped(folder) -> None:
    trainer = batch_trainer(folder, 0.0, 1e-3)
    assert float(trainer_delta(trainer).norm()) == pytest.approx(1e-3, rel=1e-3)
    loose = batch_trainer(folder, 0.0, 1e6)
    plain = Trainer(
        trainer.model,
        trainer.rows,
        replace(trainer.local, mechanisms={"bank": mechanism_for("none", {}, loose.local.mechanisms["bank"].plan)}),
    )
    assert float((trainer_delta(loose) - trainer_delta(plain)).norm() / trainer_delta(plain).norm()) < 1e-6


def test_one_row_can_turn_a_clipped_batch_round() -> None:
    mechanism = mechanism_for(
        "batch_clip_gaussian", {"noise_multiplier": 1.0, "max_grad_norm": 0.5, "dp_delta": 1e-5}, PLAN
    )
    batch, outlier = torch.tensor([[-3.0, 0.0], [-2.0, 0.0]]), torch.tensor([100.0, 0.0])

    def release(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * mechanism.weights(gradient.norm()[None])

    moved = release(batch.sum(0) + outlier) - release(batch.sum(0))
    assert float(moved.norm()) == pytest.approx(2 * 0.5)


def test_the_noise_of_a_batch_is_charged_as_half(folder) -> None:
    trainer = checks.with_rows(batch_trainer(folder, 2.0, 0.1), np.zeros(0, dtype=np.int64))
    released = torch.cat([trainer_delta(trainer, seed) for seed in range(8)])
    charged = trainer.local.mechanisms["bank"].spend(1)
    assert charged == Spend(1.0, 1.0, 1)
    assert float(released.std()) / (2 * 0.1) == pytest.approx(charged.noise_multiplier, rel=0.03)


def test_finlora_s_documented_recipe_is_not_epsilon_one() -> None:
    mechanism = mechanism_for("batch_clip_gaussian", {"noise_multiplier": 1.0, "dp_delta": 1e-5}, PLAN)
    assert pld_epsilon([mechanism.spend(10)], 1e-5).epsilon == pytest.approx(46.2, abs=0.1)


# ------------------------------------------------------------------------------------------------------- the whole bank


def local(**knobs: float) -> Mechanism:
    return mechanism_for("dp_bank_local", {"dp_delta": 1e-5, "max_update_norm": 0.5, **knobs}, PLAN)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6, math.inf, math.nan])
def test_an_update_leaves_with_at_most_the_bound(scale) -> None:
    update = {name: scale * tensor for name, tensor in UPDATE.items()}
    released = local(noise_multiplier=0.0).release(update, Seeded(1, "release"))
    assert norm(released) <= 0.5 * (1 + 1e-6)
    if scale == 1e-3:
        assert all(torch.equal(released[name], update[name]) for name in update)
    if not math.isfinite(scale):
        assert norm(released) == 0


def test_two_data_sets_of_a_bank_move_its_update_by_twice_the_bound() -> None:
    mechanism = local(noise_multiplier=0.0)
    there = mechanism.release(UPDATE, Seeded(1, "release"))
    back = mechanism.release({name: -tensor for name, tensor in UPDATE.items()}, Seeded(1, "release"))
    assert norm(subtract(there, back)) == pytest.approx(2 * 0.5)


def test_the_noise_of_an_update_is_charged_once_a_round_and_as_half() -> None:
    mechanism = local(noise_multiplier=3.0)
    zeros = {name: torch.zeros(300, 100) for name in UPDATE}
    noise = flatten(mechanism.release(zeros, Seeded(1, "release")))
    charged = mechanism.spend(20)
    assert charged == Spend(1.5, 1.0, 1)
    assert float(noise.std()) / (2 * 0.5) == pytest.approx(charged.noise_multiplier, rel=0.01)


def test_noise_is_calibrated_to_the_rounds() -> None:
    mechanism = local(dp_epsilon=3.0)
    charged = mechanism.spend(20)
    ten_rounds = replace(charged, num_steps=10)
    assert 2.99 < rdp_epsilon([ten_rounds], 1e-5) <= 3.0
    assert mechanism.noise_multiplier == pytest.approx(2 * charged.noise_multiplier)


def test_a_bank_level_run_trains_plainly_and_noises_the_update(folder) -> None:
    trainer = with_mechanism(
        checks.make_trainer(folder, 0.0), "dp_bank_local", noise_multiplier=0.0, max_update_norm=1e-3
    )
    assert float(trainer_delta(trainer).norm()) == pytest.approx(1e-3, rel=1e-3)


class Chatty(LocalRule):
    def finish(self, trained, context) -> Outcome:
        return replace(super().finish(trained, context), slots={"loss": torch.ones(1)})


def test_nothing_may_leave_beside_a_protected_update(folder) -> None:
    trainer = with_mechanism(checks.make_trainer(folder, 0.0), "dp_bank_local", noise_multiplier=1.0)
    trainer = Trainer(trainer.model, trainer.rows, replace(trainer.local, rule=Chatty()))
    with pytest.raises(FedsimError, match="sends loss beside its update"):
        trainer_delta(trainer)


def test_rows_are_units_of_their_own_without_a_column() -> None:
    assert Drawn.of_rows(np.array([5, 7, 9])).units.tolist() == [0, 1, 2]
