"""Epsilon against published and exact values, and the laws that every accountant keeps."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from fedsim.core.errors import PrivacyConfigError
from fedsim.core.messages import Spend
from fedsim.privacy.accounting import (
    MIN_NOISE,
    ORDERS,
    calibrate,
    fits,
    merged,
    pld_epsilon,
    rdp_epsilon,
    renyi_curve,
    steps_within,
)

MNIST = 256 / 60000
# sample rate, noise multiplier, steps, delta: epsilon by old RDP, new RDP, PLD (dp-accounting, losses in steps of 1e-4)
GOLDEN = {
    "TF-privacy MNIST, 60 epochs": (MNIST, 1.1, 14063, 1e-5, 3.0092, 2.59666, 2.3818),
    "TF-privacy MNIST, 15 epochs": (MNIST, 1.3, 3516, 1e-5, 1.1923, 0.95456, 0.8646),
    "TF-privacy MNIST, 45 epochs": (MNIST, 0.7, 10547, 1e-5, 7.1229, 6.318, 5.6397),
    "TF-privacy MNIST, 1 epoch": (MNIST, 1.1, 235, 1e-5, 1.0343, 0.74055, 0.307),
    "TF-privacy unit test 1": (150 / 60000, 1.3, 6000, 1e-5, None, 0.7242234026, 0.6401),
    "TF-privacy unit test 2": (1e-3, 1.0, 30000, 1e-7, None, 1.4154988495, 1.0982),
    "Opacus unit test": (0.04, 1.5, 2250, 1e-5, None, 7.32911117143, 6.7695),
    "Abadi et al.": (0.01, 4, 10000, 1e-5, 1.2586, 1.03549, 0.9470),
    "PRV read-me": (5e-3, 0.8, 1000, 1e-6, 3.1847, 2.62654, 2.00411),
    "FLASC-like": (0.01, 1, 200, 1e-5, 1.7954, 1.34011, 0.91248),
    "bank of 2000 rows, batch 32": (0.016, 1, 200, 1e-5, 2.3549, 1.85319, 1.47614),
    "bank of 5000 rows, batch 2": (4e-4, 1, 200, 1e-5, 0.8228, 0.56041, 0.0253),
    "half the banks": (0.5, 1, 10, 1e-5, 12.73, 11.54, 10.46),
    "all banks": (1, 1, 10, 1e-5, 20.18, 19.05, 17.857),
    "TF-privacy statement, two whole passes": (1, 0.7, 2, 1e-5, None, 10.8602036, 10.1225),
    "TF-privacy statement, Poisson": (0.01, 0.7, 120, 1e-5, None, 3.2392676, 2.46128),
    "TF-privacy statement, micro-batched": (0.01, 0.35, 120, 1e-5, None, 22.597, 18.698),
}

RANDOM = settings(deadline=None, derandomize=True, max_examples=10)
NOISE = st.floats(0.5, 8)
RATE = st.floats(1e-4, 0.2)
STEPS = st.integers(1, 5000)
DELTA = st.sampled_from([1e-7, 1e-5, 1e-3])


@pytest.mark.parametrize("name", GOLDEN)
def test_new_rdp_golden_table(name) -> None:
    rate, noise, steps, delta, _, expected, _ = GOLDEN[name]
    assert rdp_epsilon([Spend(noise, rate, steps)], delta) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", [name for name, row in GOLDEN.items() if row[4]])
def test_old_rdp_golden_table(name) -> None:
    """Published with TF-privacy's coarser orders, which can only loosen the bound."""
    rate, noise, steps, delta, expected, _, _ = GOLDEN[name]
    epsilon = rdp_epsilon([Spend(noise, rate, steps)], delta, conversion="old")
    assert 0.97 * expected < epsilon < 1.0005 * expected


@pytest.mark.parametrize("name", GOLDEN)
def test_pld_golden_table(name) -> None:
    rate, noise, steps, delta, _, _, expected = GOLDEN[name]
    epsilon, method = pld_epsilon([Spend(noise, rate, steps)], delta)
    assert epsilon == pytest.approx(expected, rel=0.005)
    assert method == "pld"


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Exact: delta(eps) = Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu) with mu = sqrt(steps) / noise."""
    return brentq(
        lambda eps: norm.cdf(mu / 2 - eps / mu) - math.exp(eps + norm.logcdf(-mu / 2 - eps / mu)) - delta, 0, 200
    )


@pytest.mark.parametrize(
    ("noise", "steps", "expected"),
    [(1, 1, 4.3772), (5, 1, 0.7255), (2, 10, 7.5113), (4, 10, 3.3414), (2, 50, 20.676), (4, 100, 13.207)],
)
def test_full_participation_is_the_plain_gaussian(noise, steps, expected) -> None:
    assert gaussian_epsilon(math.sqrt(steps) / noise, 1e-5) == pytest.approx(expected, rel=1e-4)
    assert pld_epsilon([Spend(noise, 1.0, steps)], 1e-5).epsilon == pytest.approx(expected, rel=1e-4)
    assert expected < rdp_epsilon([Spend(noise, 1.0, steps)], 1e-5) < 1.12 * expected


def test_rdp_of_one_gaussian() -> None:
    assert rdp_epsilon([Spend(1.0, 1.0, 1)], 1e-5) == pytest.approx(4.7285, rel=1e-4)
    assert rdp_epsilon([Spend(5.0, 1.0, 1)], 1e-5) == pytest.approx(0.7945, rel=1e-4)
    assert rdp_epsilon([Spend(4.530877117, 1.0, 1)], 1e-6) == pytest.approx(1.0, rel=1e-5)


def test_renyi_curve_golden_values() -> None:
    values = {2.5: 1.08549e-3, 5: 2.18076e-3, 50: 2.38460e-2}
    for order, expected in values.items():
        assert 50 * renyi_curve(2.5, 0.01)[ORDERS.index(order)] == pytest.approx(expected, rel=1e-4)


@given(NOISE, RATE, STEPS, DELTA)
@RANDOM
def test_pld_is_not_above_new_rdp_nor_new_above_old(noise, rate, steps, delta) -> None:
    spends = [Spend(noise, rate, steps)]
    assert pld_epsilon(spends, delta).epsilon <= rdp_epsilon(spends, delta) <= rdp_epsilon(spends, delta, "old")


@given(NOISE, RATE, STEPS, DELTA, st.floats(1.05, 2))
@RANDOM
def test_epsilon_grows_with_rate_steps_and_certainty_and_falls_with_noise(noise, rate, steps, delta, factor) -> None:
    def epsilon(noise: float, rate: float, steps: int, delta: float) -> float:
        return rdp_epsilon([Spend(noise, rate, steps)], delta)

    base = epsilon(noise, rate, steps, delta)
    assume(base > 0)
    assert epsilon(noise, rate * factor, steps, delta) > base
    assert epsilon(noise, rate, math.ceil(steps * factor), delta) > base
    assert epsilon(noise, rate, steps, delta / factor) > base
    assert epsilon(noise * factor, rate, steps, delta) < base


def test_nothing_spent_is_zero_and_no_noise_is_infinite() -> None:
    for epsilon in (rdp_epsilon, lambda spends, delta: pld_epsilon(spends, delta).epsilon):
        assert epsilon([], 1e-5) == 0
        assert epsilon([Spend(1.0, 0.1, 0), Spend(0.0, 0.1, 0)], 1e-5) == 0
        assert epsilon([Spend(0.0, 0.1, 1)], 1e-5) == math.inf
        assert epsilon([Spend(1.0, 0.1, 10), Spend(0.0, 1.0, 1)], 1e-5) == math.inf


def test_order_and_grouping_of_spends_do_not_matter() -> None:
    parts = [Spend(1.0, 0.02, 30), Spend(2.0, 0.1, 7), Spend(1.0, 0.02, 20), Spend(2.0, 1.0, 3)]
    whole = (Spend(1.0, 0.02, 50), Spend(2.0, 0.1, 7), Spend(2.0, 1.0, 3))
    assert merged(parts) == merged(reversed(parts)) == whole
    assert rdp_epsilon(parts, 1e-5) == rdp_epsilon(whole, 1e-5)
    assert pld_epsilon(parts, 1e-5) == pld_epsilon(whole, 1e-5)


@pytest.mark.parametrize("spend", [Spend(0.01, 0.1, 100_000), Spend(0.02, 1.0, 1), Spend(0.05, 1e-6, 10)])
@pytest.mark.timeout(30)
def test_tiny_noise_falls_back_to_rdp_and_says_so(spend) -> None:
    assert pld_epsilon([spend], 1e-5) == (rdp_epsilon([spend], 1e-5), "rdp")


@pytest.mark.parametrize(
    ("accountant", "epsilon", "rate", "steps", "noise"),
    [
        ("rdp", 1, 0.016, 200, 1.3141),
        ("rdp", 3, 0.016, 200, 0.8302),
        ("rdp", 8, 0.016, 200, 0.5830),
        ("rdp", 1, 0.004, 1000, 1.0242),
        ("rdp", 6, 0.004, 1000, 0.5520),
        ("rdp", 8, 0.04, 2000, 1.3562),  # Opacus' unit test
        ("pld", 3, 0.016, 200, 0.770),
        ("pld", 6, 0.004, 1000, 0.519),
    ],
)
def test_calibration_golden_values(accountant, epsilon, rate, steps, noise) -> None:
    assert calibrate(epsilon, 1e-5, Spend(1.0, rate, steps), accountant) == pytest.approx(noise, rel=2e-3)


@given(st.floats(0.2, 20), st.floats(1e-4, 0.05), st.integers(1, 2000), DELTA)
@settings(RANDOM, max_examples=5)
def test_calibration_never_gives_too_little_noise_and_hardly_too_much(epsilon, rate, steps, delta) -> None:
    noise = calibrate(epsilon, delta, Spend(1.0, rate, steps))
    assert rdp_epsilon([Spend(noise, rate, steps)], delta) <= epsilon
    assert rdp_epsilon([Spend(noise / 1.001, rate, steps)], delta) > epsilon


@pytest.mark.parametrize(("epsilon", "rate", "steps"), [(0.5, 0.01, 40), (4.0, 1.0, 300)])
def test_calibration_by_pld_fits_and_needs_no_more_noise_than_by_rdp(epsilon, rate, steps) -> None:
    noise = calibrate(epsilon, 1e-5, Spend(1.0, rate, steps), "pld")
    assert pld_epsilon([Spend(noise, rate, steps)], 1e-5).epsilon <= epsilon
    assert noise <= calibrate(epsilon, 1e-5, Spend(1.0, rate, steps), "rdp")


def test_accounting_a_given_noise_and_calibrating_to_the_result_are_inverse() -> None:
    for noise in (0.6, 3.0):
        epsilon = rdp_epsilon([Spend(noise, 0.05, 300)], 1e-6)
        assert calibrate(epsilon, 1e-6, Spend(1.0, 0.05, 300)) == pytest.approx(noise, rel=1e-3)


def test_calibration_at_both_ends() -> None:
    assert calibrate(1e9, 1e-5, Spend(1.0, 0.01, 10)) == MIN_NOISE
    with pytest.raises(PrivacyConfigError, match=r"0\.001 is out of reach: noise_multiplier 1024 still spends 0\.0"):
        calibrate(0.001, 1e-5, Spend(1.0, 1.0, 20))


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_steps_within_is_the_last_that_fits(accountant) -> None:
    def holds(steps: int) -> bool:
        return fits([Spend(1.0, 0.02, steps)], 1.5, 1e-5, accountant)

    bought = steps_within(1.5, 1e-5, Spend(1.0, 0.02, 250), accountant)
    assert holds(bought)
    assert not holds(bought + 1)
    assert bought < 250
    assert steps_within(1.5, 1e-5, Spend(1.0, 0.02, bought - 5), accountant) == bought - 5
    assert steps_within(1.5, 1e-5, Spend(0.0, 0.02, 250), accountant) == 0
