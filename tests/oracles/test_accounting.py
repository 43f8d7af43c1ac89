"""Accounting against Opacus' and dp-accounting's own accountants, and against the integral that defines it."""

import math

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import RDPAccountant
from scipy.special import logsumexp

from fedsim.core.messages import Spend
from fedsim.privacy.accounting import ORDERS, pld_epsilon, rdp_epsilon, renyi_curve
from fedsim.privacy.prv import prv_epsilon, prv_of

RUNS = [
    [Spend(1.0, 0.016, 200)],
    [Spend(2.5, 0.3, 40)],
    [Spend(1.0, 1.0, 10)],
    [Spend(0.8, 0.005, 1000), Spend(1.3, 0.04, 50), Spend(6.0, 1.0, 3)],
]


def event_of(spends: list[Spend]) -> dp.DpEvent:
    return dp.ComposedDpEvent([
        dp.SelfComposedDpEvent(
            dp.PoissonSampledDpEvent(spend.sample_rate, dp.GaussianDpEvent(spend.noise_multiplier)), spend.num_steps
        )
        for spend in spends
    ])  # fmt: skip


@pytest.mark.parametrize("spends", RUNS)
def test_rdp_equals_the_opacus_accountant(spends) -> None:
    accountant = RDPAccountant()
    accountant.history = [(spend.noise_multiplier, spend.sample_rate, spend.num_steps) for spend in spends]
    assert rdp_epsilon(spends, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5, alphas=list(ORDERS)), rel=1e-9)


@pytest.mark.parametrize("spends", RUNS)
def test_rdp_is_not_above_dp_accounting_whose_fractional_orders_are_looser(spends) -> None:
    accountant = RdpAccountant(orders=[order for order in ORDERS if float(order).is_integer()])
    accountant.compose(event_of(spends))
    assert 0.95 * accountant.get_epsilon(1e-5) < rdp_epsilon(spends, 1e-5) <= accountant.get_epsilon(1e-5) * (1 + 1e-9)


@pytest.mark.parametrize("spends", RUNS)
def test_pld_equals_dp_accounting_on_a_fine_grid(spends) -> None:
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    accountant.compose(event_of(spends))
    assert pld_epsilon(spends, 1e-5).epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=5e-3)


@pytest.mark.parametrize(("rate", "noise"), [(0.01, 2.5), (0.016, 0.6), (0.5, 1.0), (0.9, 4.0), (1.0, 1.5)])
def test_renyi_curve_is_the_integral(rate, noise) -> None:
    """R(a) = log E_{x ~ N(0, s^2)} [((1 - q) + q exp((2x - 1) / 2s^2))^a] / (a - 1), by the trapezoidal rule."""
    curve = renyi_curve(noise, rate)
    for order in (1.1, 1.5, 2.5, 5.0, 10.9, 20, 63, 128):
        x = np.linspace(-40 * noise, order + 40 * noise, 200_001)
        log_density = -(x**2) / (2 * noise**2) - math.log(noise * math.sqrt(2 * math.pi))
        keep = math.log1p(-rate) if rate < 1 else -math.inf
        log_ratio = np.logaddexp(keep, math.log(rate) + (2 * x - 1) / (2 * noise**2))
        expected = (logsumexp(log_density + order * log_ratio) + math.log(x[1] - x[0])) / (order - 1)
        assert curve[ORDERS.index(order)] == pytest.approx(expected, rel=1e-6, abs=1e-10)


@pytest.mark.parametrize(
    ("size", "batch", "noise", "steps", "looser"),
    [(2000, 32, 1.0, 200, 1.0), (2000, 32, 0.5, 200, 1.0), (100, 10, 0.7, 30, 1.0), (500, 50, 3.0, 100, 1.3)],
)
def test_fixed_samples_are_not_below_dp_accounting_and_mostly_equal(size, batch, noise, steps, looser) -> None:
    """dp-accounting tightens the theorem by forward differences, which tells for large noise and rates."""
    accountant = RdpAccountant([order for order in ORDERS if order <= 256], dp.NeighboringRelation.REPLACE_ONE)
    step = dp.SampledWithoutReplacementDpEvent(size, batch, dp.GaussianDpEvent(noise))
    accountant.compose(dp.SelfComposedDpEvent(step, steps))
    theirs, ours = accountant.get_epsilon(1e-5), rdp_epsilon([Spend(noise, batch / size, steps, "fixed")], 1e-5)
    assert theirs * (1 - 1e-9) <= ours <= looser * theirs * (1 + 1e-6)


def test_prv_agrees_with_pld() -> None:
    """Three codes, two theories: what Opacus computes in a process of its own, here in this one."""
    asked = {"history": [(1.5, 0.04, 2249)], "delta": 1e-5}
    assert prv_of(asked) == pytest.approx(6.777395712, rel=1e-3)  # published
    for spend in (Spend(1.0, 0.016, 200), Spend(2.5, 0.3, 40)):
        prv = prv_of({"history": [(spend.noise_multiplier, spend.sample_rate, spend.num_steps)], "delta": 1e-5})
        assert prv == pytest.approx(pld_epsilon([spend], 1e-5).epsilon, abs=0.03)


@pytest.mark.parametrize(
    ("spend", "limit_s"), [(Spend(1.0, 0.016, 200), 1e-3), (Spend(1.0, 0.016, 200, "fixed"), 30), (Spend(0, 1, 1), 30)]
)
def test_prv_that_gives_noprv_of_in_time_is_the_rdp_bound_under_its_own_name(spend, limit_s) -> None:
    assert prv_epsilon([spend], 1e-5, limit_s) == (rdp_epsilon([spend], 1e-5), "rdp")


def test_prv_that_fails_is_the_rdp_bound(monkeypatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert prv_epsilon([Spend(1.0, 0.016, 200)], 1e-5) == (rdp_epsilon([Spend(1.0, 0.016, 200)], 1e-5), "rdp")


def test_prv_answers_from_a_process_of_its_own() -> None:
    assert prv_epsilon([Spend(1.0, 0.016, 200)], 1e-5, 240).method == "prv"
