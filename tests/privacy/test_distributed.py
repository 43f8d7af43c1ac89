"""Banks that add discrete noise of which only the sum is seen: what is released, and what it is charged as."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.core.adapter import flatten
from fedsim.core.errors import PrivacyConfigError
from fedsim.core.messages import Spend
from fedsim.privacy import Ledger, mechanism_for
from fedsim.privacy.accounting import ORDERS, pld_epsilon, rdp_epsilon
from fedsim.privacy.base import BankPlan
from fedsim.privacy.dp_bank_distributed import SLACK, DPBankDistributed, inflated_norm
from fedsim.privacy.ledger import Charge
from fedsim.privacy.prv import prv_epsilon
from fedsim.privacy.sources import Seeded

M = 8  # banks that are opened at the least
PLAN = BankPlan("bank-0", 100, 16, steps_per_round=5, num_rounds=10, num_banks=12, num_summed=M)
Z, C = 3.0, 0.5


def mechanism(plan: BankPlan = PLAN, **knobs: float) -> DPBankDistributed:
    knobs = {"noise_multiplier": Z, "max_update_norm": C, "dp_delta": 1e-5, **knobs}
    if "dp_epsilon" in knobs:
        del knobs["noise_multiplier"]
    made = mechanism_for("dp_bank_distributed", knobs, plan)
    assert isinstance(made, DPBankDistributed)
    return made


def update(scale: float = 1.0, numel: int = 2000) -> dict[str, torch.Tensor]:
    return {"m.A": scale * torch.randn(numel, generator=torch.Generator().manual_seed(1))}


# --------------------------------------------------------------------------------------------------- releases


def test_a_release_lies_on_the_grid() -> None:
    made = mechanism()
    step, code = made.grid
    codes = flatten(made.release(update(), Seeded(1, "release"))).double() / step
    assert float((codes - codes.round()).abs().max()) < 1e-2
    assert int(codes.abs().max()) < code


def test_rounding_is_unbiased_and_never_longer_than_charged() -> None:
    made = mechanism(noise_steps=256)
    vector = np.full(500, C / made.step / math.sqrt(500)) + 0.3  # at the bound
    vector *= (C / made.step) / np.linalg.norm(vector)
    drawn = np.stack([made._rounded(vector, Seeded(seed, "r")) for seed in range(2000)])
    assert float(np.linalg.norm(drawn, axis=1).max()) <= (1 + SLACK) * C / made.step
    assert np.abs(drawn - vector).max() < 1
    assert np.abs(drawn.mean(0) - vector).max() < 5 * 0.5 / math.sqrt(2000)


def test_the_noise_of_a_sum_is_what_is_charged_whoever_drops_out() -> None:
    """From the fewest banks that are opened to all twelve, without the noise of one of them."""
    made, nothing = mechanism(), {"m.A": torch.zeros(20_000)}
    banks = [flatten(made.release(nothing, Seeded(bank, "release"))).double() for bank in range(12)]
    for present in (M, 10, 12):
        seen_by_one = torch.stack(banks[1:present]).sum(0)
        multiplier = float(seen_by_one.std()) / (2 * (1 + SLACK) * C)
        assert multiplier == pytest.approx(
            made.spend(5).noise_multiplier * math.sqrt((present - 1) / (M - 1)), rel=0.02
        )
    assert made.spend(5) == Spend(Z / (2 * (1 + SLACK)), 1.0, 1, noise="discrete")


def test_two_updates_move_the_sum_by_no_more_than_is_charged() -> None:
    made = mechanism(noise_steps=1024)
    one, other = (flatten(update(scale)).double().numpy() for scale in (50.0, -50.0))
    for seed in range(20):
        clipped = [vector * (C / made.step) / np.linalg.norm(vector) for vector in (one, other)]
        rounded = [made._rounded(vector, Seeded(seed, "r")) for vector in clipped]
        assert np.linalg.norm(rounded[0] - rounded[1]) * made.step <= made.sensitivity * C


def test_an_update_that_is_not_finite_is_released_as_noise() -> None:
    broken = {"m.A": torch.tensor([math.nan, 1.0, math.inf])}
    assert bool(torch.isfinite(mechanism().release(broken, Seeded(1, "r"))["m.A"]).all())


def test_too_coarse_a_grid_is_refused_with_one_that_will_do() -> None:
    made = mechanism(noise_steps=64)
    with pytest.raises(PrivacyConfigError, match=r"an update of 50000 values .* use about") as caught:
        made.release(update(numel=50_000), Seeded(1, "r"))
    enough = int(str(caught.value).rpartition(" ")[2])
    mechanism(noise_steps=enough)._require_room(50_000)
    with pytest.raises(PrivacyConfigError):
        mechanism(noise_steps=enough // 2)._require_room(50_000)


def test_noise_so_small_that_float32_cannot_hold_the_codes_is_refused() -> None:
    config = DPBankDistributed.Config(noise_multiplier=0.001, dp_delta=1e-5)
    (problem,) = DPBankDistributed.problems(config, [PLAN])
    assert "float32 counts to 4194304; lower noise_steps" in problem


# -------------------------------------------------------------------------------------------------- accounting


@pytest.mark.parametrize(
    ("gamma", "beta", "expected"),
    [
        (1e-9, 0, 1.0000316227766017),
        (1e-2, 0, 317.2277660168379),
        (1e-9, 0.01, 1.000000001642451),
        (1e-2, 0.01, 158.13231445360802),
        (1e-9, 0.5, 1.0000000007137142),
        (1e-2, 0.5, 158.12296930808552),
        (1e-9, 1, 1.000000000125),
        (1e-2, 1, 158.11704525445697),
    ],
)
def test_the_norm_after_rounding(gamma: float, beta: float, expected: float) -> None:
    """Equations 18 and 19 of 2102.06387 for a norm of 1 in 10^9 dimensions, as others have computed them."""
    assert gamma * inflated_norm(1 / gamma, 10**9, beta) == pytest.approx(expected, rel=1e-9)


def test_epsilon_by_hand() -> None:
    """z = 3 on sums that move by up to 65/32 C: rho = 1 / (2 (96/65)^2) a round, ten rounds."""
    spend = replace(mechanism().spend(5), num_steps=10)
    rho = 10 / (2 * (96 / 65) ** 2)
    assert spend.noise_multiplier == pytest.approx(96 / 65)
    orders = np.array(ORDERS)
    by_hand = (rho * orders + np.log1p(-1 / orders) - (math.log(1e-5) + np.log(orders)) / (orders - 1)).min()
    assert rdp_epsilon([spend], 1e-5) == pytest.approx(by_hand, rel=1e-9)
    assert by_hand < rho + 2 * math.sqrt(rho * math.log(1e5))  # the plain bound of concentrated privacy (1605.02065)


def test_epsilon_by_proposition_14() -> None:
    """Delta / (sqrt(n) sigma) in steps, n the banks beside one; what tau adds is beyond float64."""
    made = mechanism()
    delta = 2 * made.longest
    scale = delta / (math.sqrt(M - 1) * made.config.noise_steps)
    assert made.spend(1).noise_multiplier == pytest.approx(1 / scale, rel=1e-12)
    log10_tau = 1 + math.log10(10**6) - 2 * math.pi**2 * 16**2 / 2 / math.log(10)  # 16 steps, a million banks
    assert log10_tau + 0.5 * math.log10(10**12) < -1000


def test_the_divergence_of_exact_sums_is_within_the_charge() -> None:
    """Three banks of sigma 16, shifted by 1 to 40 steps: summed over all outcomes."""
    values = np.arange(-400, 401)
    one = np.exp(-(values**2) / (2 * 16**2))
    total = np.convolve(np.convolve(one, one), one) / one.sum() ** 3
    for shift in (1, 7, 40):
        left, right = total[shift:], total[:-shift]
        inside = (left > 1e-280) & (right > 1e-280)
        for order in (1.5, 2.0, 8.0):
            terms = order * np.log(left[inside]) + (1 - order) * np.log(right[inside])
            divergence = math.log(math.fsum(np.exp(terms))) / (order - 1)
            assert divergence <= order / 2 * shift**2 / (3 * 16**2) * (1 + 1e-6)
            assert divergence >= order / 2 * shift**2 / (3 * 16**2) * (1 - 1e-3)


def test_no_tighter_bound_is_claimed() -> None:
    spend = mechanism().spend(5)
    assert pld_epsilon([spend], 1e-5) == (rdp_epsilon([spend], 1e-5), "rdp")
    assert prv_epsilon([spend], 1e-5).method == "rdp"
    gaussian = replace(spend, noise="gaussian")
    assert pld_epsilon([gaussian], 1e-5).method == "pld"
    assert pld_epsilon([gaussian, spend], 1e-5).method == "rdp"
    ledger = Ledger(1e-5)
    ledger.intend(Charge(1, "inputs", {"bank-0": spend}))
    assert ledger.spent("bank-0") == [spend]
    assert ledger.tight_epsilon("bank-0").method == "rdp"


def test_calibrated_noise_ends_within_its_target() -> None:
    spend = replace(mechanism(dp_epsilon=4.0).spend(5), num_steps=10)
    assert 3.99 < rdp_epsilon([spend], 1e-5) <= 4.0


def test_a_sum_of_fewer_banks_needs_more_noise_of_each() -> None:
    few, many = (mechanism(replace(PLAN, num_summed=number)) for number in (3, 51))
    assert few.step / many.step == pytest.approx(5.0)
    assert few.spend(1) == many.spend(1)
