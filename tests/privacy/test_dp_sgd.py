"""The mechanism does what the ledger charges: clips rows, and adds noise that depends on the generator alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedsim.core import seeds
from fedsim.core.errors import PrivacyConfigError
from fedsim.core.messages import Spend
from fedsim.privacy import MECHANISMS, mechanism_for
from fedsim.privacy.accounting import rdp_epsilon
from fedsim.privacy.base import BankPlan, Mechanism
from fedsim.privacy.dp_sgd import DPSGD
from fedsim.privacy.sources import Seeded

PLAN = BankPlan("bank-01", num_examples=2000, batch_size=32, steps_per_round=20, num_rounds=10)
DP = {"noise_multiplier": 1.5, "max_grad_norm": 0.5, "dp_delta": 1e-5}


def mechanism(plan: BankPlan = PLAN, **knobs: float) -> Mechanism:
    return mechanism_for("dp_sgd", {**DP, **knobs}, plan)


def norms_of(rows: torch.Tensor) -> torch.Tensor:
    return rows.double().norm(dim=1).float()


@given(st.integers(0, 2**31), st.floats(1e-3, 1e3), st.integers(-12, 12))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_no_clipped_row_is_longer_than_the_bound(seed, bound, exponent) -> None:
    rows = torch.randn(16, 257, generator=seeds.generator(seed, "rows")) * 10.0**exponent
    clipped = mechanism(max_grad_norm=bound).weights(norms_of(rows))[:, None] * rows
    assert float(clipped.double().norm(dim=1).max()) <= bound * (1 + 1e-6)


def test_rows_within_the_bound_are_left_alone_and_longer_ones_keep_their_direction() -> None:
    weights = mechanism().weights(torch.tensor([0.0, 1e-30, 0.25, 0.5, 1.0, 50.0]))
    assert weights.tolist() == pytest.approx([1, 1, 1, 1, 0.5, 0.01])


def test_rows_that_are_not_finite_contribute_nothing() -> None:
    weights = mechanism().weights(torch.tensor([math.inf, -math.inf, math.nan, 1.0]))
    assert weights.tolist() == [0, 0, 0, 0.5]
    unbounded = mechanism(max_grad_norm=1e300)
    assert unbounded.weights(torch.tensor([math.inf, math.nan, 1e30])).tolist() == [0, 0, 1]


def test_one_row_more_or_less_moves_the_sum_by_at_most_the_bound() -> None:
    rows = torch.randn(40, 33, generator=seeds.generator(1, "rows")).double() ** 3
    rows[7] *= 1e6
    weights = mechanism().weights(norms_of(rows)).double()
    total = weights @ rows
    for left_out in range(40):
        keep = torch.arange(40) != left_out
        assert float((total - weights[keep] @ rows[keep]).norm()) <= 0.5 * (1 + 1e-6)


def test_clipping_the_batch_instead_of_its_rows_moves_by_twice_the_bound() -> None:
    """Why a clipped batch gradient with the same noise (DP-LoRA, 2312.17493) is not this mechanism."""
    bound, outlier = 0.5, torch.tensor([100.0, 0.0])
    batch = torch.tensor([[-3.0, 0.0], [-2.0, 0.0]])

    def clip_batch(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * min(1.0, bound / float(gradient.norm()))

    moved = clip_batch(torch.cat([batch, outlier[None]]).sum(0)) - clip_batch(batch.sum(0))
    assert float(moved.norm()) == pytest.approx(2 * bound)


def test_noise_has_the_promised_deviation() -> None:
    noise = mechanism().noise(200_000, Seeded(1, "noise"))
    assert noise.dtype == torch.float32
    assert float(noise.std()) == pytest.approx(1.5 * 0.5, rel=0.01)
    assert abs(float(noise.mean())) < 5 * 0.75 / math.sqrt(200_000)


def test_noise_is_reproduced_by_its_generator_and_by_nothing_else() -> None:
    one = mechanism().noise(1000, Seeded(1, "noise", 3))
    assert torch.equal(one, mechanism().noise(1000, Seeded(1, "noise", 3)))
    assert not torch.equal(one, mechanism().noise(1000, Seeded(1, "noise", 4)))


def test_an_empty_batch_is_released_as_pure_noise_and_charged() -> None:
    dp = mechanism()
    weights = dp.weights(torch.zeros(0))
    released = weights @ torch.zeros(0, 5000) + dp.noise(5000, Seeded(1, "noise"))
    assert float(released.std()) == pytest.approx(0.75, rel=0.03)
    assert dp.spend(1) == Spend(1.5, 0.016, 1)


def test_without_noise_and_bound_nothing_is_changed_and_nothing_is_promised() -> None:
    off = mechanism(noise_multiplier=0.0, max_grad_norm=1e30)
    assert off.weights(torch.tensor([0.0, 1e-20, 1.0, 1e20])).tolist() == [1, 1, 1, 1]
    assert not off.noise(10, Seeded(1, "noise")).any()
    assert rdp_epsilon([off.spend(1)], 1e-5) == math.inf


def test_noise_is_calibrated_to_each_bank() -> None:
    small = BankPlan("small", num_examples=200, batch_size=32, steps_per_round=20, num_rounds=10)
    noises = []
    for plan in (PLAN, small):
        spend = mechanism_for("dp_sgd", {"dp_epsilon": 3.0, "dp_delta": 1e-5}, plan).spend(plan.num_steps)
        assert 2.99 < rdp_epsilon([spend], 1e-5) <= 3.0
        noises.append(spend.noise_multiplier)
    assert noises[0] == pytest.approx(0.8302, rel=1e-3)
    assert noises[1] > 2 * noises[0]


def test_with_both_the_noise_is_taken_as_given() -> None:
    assert mechanism(dp_epsilon=0.1).spend(20) == Spend(1.5, 0.016, 20)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"dp_delta": 1e-5}, "give noise_multiplier .*, dp_epsilon .*, or both"),
        ({"noise_multiplier": 1.0}, "dp_delta"),
        ({**DP, "noise_multiplier": -1.0}, "noise_multiplier"),
        ({**DP, "noise_multiplier": math.inf}, "noise_multiplier"),
        ({**DP, "max_grad_norm": 0.0}, "max_grad_norm"),
        ({**DP, "dp_delta": 1.0}, "dp_delta"),
        ({**DP, "dp_epsilon": 0.0}, "dp_epsilon"),
        ({**DP, "accountant": "prv"}, "accountant"),
    ],
)
def test_knobs_that_make_no_sense_are_refused(knobs, message) -> None:
    with pytest.raises(ValidationError, match=message):
        mechanism_for("dp_sgd", knobs, PLAN)


def test_problems_name_delta_and_targets_out_of_reach() -> None:
    def problems(plans: list[BankPlan], **knobs: float) -> list[str]:
        return MECHANISMS["dp_sgd"].problems(DPSGD.Config.model_validate(knobs), plans)

    small = BankPlan("bank-02", num_examples=812, batch_size=8, steps_per_round=5, num_rounds=2)
    assert problems([PLAN, small], noise_multiplier=1.0, dp_delta=1e-3) == []
    assert problems([PLAN, small], noise_multiplier=1.0, dp_delta=1e-2) == [
        "delta 0.01 >= 1/812 (smallest bank); use <= 0.0001"
    ]
    (problem,) = problems([PLAN, small], dp_epsilon=1e-4, dp_delta=1e-5)
    assert problem.startswith("at bank-01: dp_epsilon 0.0001 is out of reach: noise_multiplier 1024 still spends")
    with pytest.raises(PrivacyConfigError):
        mechanism_for("dp_sgd", {"dp_epsilon": 1e-4, "dp_delta": 1e-5}, PLAN)
