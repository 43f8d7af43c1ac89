"""How much privacy a bank has spent: epsilon at a delta, for steps of Gaussian noise over sampled units.

Each step releases a sum + N(0, s^2) over a sample, and one unit moves the sum by at most s / noise_multiplier
(1607.00133). Two accountants, both upper bounds of the true epsilon:

    rdp   Renyi DP; curves of steps add. Always available. Poisson samples: 1908.10530, from Opacus. Samples of fixed
          size without replacement: 1808.00087, Theorem 9.
    pld   privacy loss distributions from dp-accounting, rounded to the pessimistic side; tight, costs up to a second.
          For Poisson samples and for none: no worst pair of data sets is known for samples of fixed size (2405.20769).

Renyi curves become epsilon by the "new" rule, epsilon = min over orders of
R(a) + log((a - 1) / a) - (log delta + log a) / (a - 1)   (2004.00010, Prop. 12; 1905.09982, Thm. 21).
The "old" rule, R(a) + log(1 / delta) / (a - 1) (1702.07476, Prop. 3), is what figures of older papers were made with:
3.01 against 2.60 for the same MNIST run.

Opacus and dp-accounting are imported where they are used: an actor only ever sees a finished noise multiplier.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from fedsim.core.errors import PrivacyConfigError, Problem
from fedsim.core.messages import Noise, Spend
from fedsim.core.sections import Sampling
from fedsim.privacy.base import Accountant

# Opacus' own grid plus 11 and three large orders: without them no epsilon below 0.1 could be shown at delta 1e-5.
ORDERS = (*(1 + tenth / 10 for tenth in range(1, 100)), *range(11, 64), 128, 256, 512)
MIN_NOISE, MAX_NOISE = 1 / 64, 1024.0  # where calibration looks
NOISE_TOLERANCE = 5e-4  # calibrated noise exceeds the least sufficient noise by at most this share
PLD_CEILING = 100.0  # RDP epsilon above which no tight value is computed


class Bound(NamedTuple):
    """An upper bound of epsilon and the accountant that it comes from."""

    epsilon: float
    method: Accountant | Literal["prv"]


def merged(spends: Iterable[Spend]) -> tuple[Spend, ...]:
    """Spends of the same noise and sampling as one, in sorted order; those without steps are left out."""
    steps: Counter[tuple[float, float, Sampling, Noise]] = Counter()
    for spend in spends:
        steps[spend.noise_multiplier, spend.sample_rate, spend.sampling, spend.noise] += spend.num_steps
    return tuple(
        Spend(multiplier, rate, number, sampling, noise)
        for (multiplier, rate, sampling, noise), number in sorted(steps.items())
        if number
    )


def rdp_epsilon(spends: Iterable[Spend], delta: float, conversion: Literal["new", "old"] = "new") -> float:
    """Epsilon by Renyi DP; 0 when nothing was spent, inf when a step had no noise."""
    return _rdp_epsilon(merged(spends), delta, conversion)


@lru_cache(maxsize=4096)  # banks that were charged alike are many
def _rdp_epsilon(total: tuple[Spend, ...], delta: float, conversion: Literal["new", "old"]) -> float:
    if not total:
        return 0.0
    orders = np.array(ORDERS)
    curve = np.zeros(len(orders))
    for spend in total:
        curve += spend.num_steps * renyi_curve(spend.noise_multiplier, spend.sample_rate, spend.sampling)
    if conversion == "old":
        curve += math.log(1 / delta) / (orders - 1)
    else:
        curve += np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(curve.min()))


@lru_cache(maxsize=4096)
def renyi_curve(noise_multiplier: float, sample_rate: float, sampling: Sampling = "poisson") -> np.ndarray:
    """(len(ORDERS),) Renyi divergence of one step at each order."""
    if sampling == "fixed":
        curve = fixed_size_curve(noise_multiplier, sample_rate)
    else:
        from opacus.accountants.analysis.rdp import compute_rdp

        curve = np.asarray(compute_rdp(q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=list(ORDERS)))
    curve.setflags(write=False)  # it is shared by every caller
    return curve


def fixed_size_curve(noise_multiplier: float, sample_rate: float) -> np.ndarray:
    """(len(ORDERS),) the same for a sample of fixed size without replacement; neighbours differ by one unit replaced.

    With e(j) = j / (2 noise_multiplier^2): (a - 1) R(a) <= log(1 + q^2 C(a, 2) min(4 (exp e(2) - 1), 2 exp e(2))
    + sum over j = 3..a of 2 q^j C(a, j) exp((j - 1) e(j))) at whole a (1808.00087, Theorem 9); (a - 1) R(a) is convex
    in a, so a chord bounds it in between (Corollary 10). A sample is never worse than all units, R(a) <= e(a).
    """
    from scipy.special import binom, logsumexp

    orders = np.array(ORDERS)
    if noise_multiplier == 0:
        return np.full(len(orders), np.inf)
    each = 1 / (2 * noise_multiplier**2)

    def scaled(order: int) -> float:
        """(a - 1) R(a)."""
        if order < 2:
            return 0.0
        j = np.arange(3, order + 1)
        second = min(math.log(4) + math.log(-math.expm1(-2 * each)), math.log(2)) + 2 * each
        terms = math.log(2) + j * math.log(sample_rate) + np.log(binom(order, j)) + (j - 1) * j * each
        pairs = 2 * math.log(sample_rate) + math.log(binom(order, 2)) + second
        return float(logsumexp([0.0, pairs, *terms]))

    below, above = np.floor(orders).astype(int), np.ceil(orders).astype(int)
    at = {order: scaled(order) for order in sorted({*below.tolist(), *above.tolist()})}
    share = orders - below
    chord = np.array([at[order] for order in below]) * (1 - share) + np.array([at[order] for order in above]) * share
    curve: np.ndarray = np.minimum(chord / (orders - 1), orders * each)
    return curve


def has_loss_distribution(spend: Spend) -> bool:
    """Whether a worst pair of outputs is known, beside the bound of its Renyi divergence."""
    return spend.noise == "gaussian" and (spend.sampling == "poisson" or spend.sample_rate == 1)


def pld_epsilon(spends: Iterable[Spend], delta: float) -> Bound:
    """The smaller of the PLD bound and the RDP bound, and which of the two it is.

    The work is bounded by the values given, not by a clock, so that every machine gives the same answer: above an RDP
    epsilon of 100, where both bounds say "not private" and the grids grow with epsilon, RDP is the answer.
    """
    return _pld_epsilon(merged(spends), delta)


@lru_cache(maxsize=4096)
def _pld_epsilon(total: tuple[Spend, ...], delta: float) -> Bound:
    fallback = Bound(rdp_epsilon(total, delta), "rdp")
    if not all(map(has_loss_distribution, total)) or not 0 < fallback.epsilon <= PLD_CEILING:
        return fallback

    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant

    # Losses are rounded up to multiples of the interval: 1/5000 of epsilon keeps the excess below a percent.
    accountant = PLDAccountant(value_discretization_interval=min(1e-3, max(1e-4, fallback.epsilon / 5000)))
    for spend in total:
        step = GaussianDpEvent(spend.noise_multiplier)
        sampled = step if spend.sample_rate == 1 else PoissonSampledDpEvent(spend.sample_rate, step)
        accountant.compose(SelfComposedDpEvent(sampled, spend.num_steps))
    return min(Bound(float(accountant.get_epsilon(delta)), "pld"), fallback)


def bound_of(spends: Iterable[Spend], delta: float, accountant: Accountant) -> Bound:
    """Epsilon by the named accountant, and by which one it was in fact."""
    return Bound(rdp_epsilon(spends, delta), "rdp") if accountant == "rdp" else pld_epsilon(spends, delta)


def fits(spends: Iterable[Spend], epsilon: float, delta: float, accountant: Accountant) -> bool:
    """Whether the spends stay within ``epsilon``. The cheap bound is asked first: PLD is never above it."""
    total = merged(spends)
    return rdp_epsilon(total, delta) <= epsilon or bound_of(total, delta, accountant).epsilon <= epsilon


@lru_cache(maxsize=4096)
def calibrate(epsilon: float, delta: float, spend: Spend, accountant: Accountant = "rdp") -> float:
    """The least noise multiplier with which ``spend`` stays within ``epsilon``, rounded up by at most 0.05 %.

    Never too little: the value returned was itself accounted and fits. Never below 1/64, however large the epsilon.
    PrivacyConfigError when a noise multiplier of 1024 is not enough.
    """

    def enough(noise: float) -> bool:
        return fits((replace(spend, noise_multiplier=noise),), epsilon, delta, accountant)

    high = 1.0
    while not enough(high):
        if high >= MAX_NOISE:
            most = replace(spend, noise_multiplier=high)
            raise PrivacyConfigError([_out_of_reach(epsilon, bound_of([most], delta, accountant), delta, most)])
        high *= 2
    low = high / 2
    while enough(low):
        if low <= MIN_NOISE:
            return low
        low, high = low / 2, low
    while high > low * (1 + NOISE_TOLERANCE):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _out_of_reach(target: float, spent: Bound, delta: float, spend: Spend) -> Problem:
    message = (
        f"{target:g} is out of reach: noise_multiplier {spend.noise_multiplier:g} still spends {spent.epsilon:.3g} "
        f"({spent.method}, delta {delta:g}, sample rate {spend.sample_rate:.3g}, {spend.num_steps} steps); "
        "raise dp_epsilon, lower batch_size, or train fewer steps"
    )
    return Problem("", "privacy.dp_epsilon", message)


def largest(limit: int, holds: Callable[[int], bool]) -> int:
    """The largest number in 0..limit for which a condition holds that holds up to a point; 0 is taken for granted."""
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


@lru_cache(maxsize=4096)
def steps_within(epsilon: float, delta: float, spend: Spend, accountant: Accountant = "rdp") -> int:
    """How many of the steps of ``spend`` a budget of ``epsilon`` buys."""
    return largest(spend.num_steps, lambda steps: fits((replace(spend, num_steps=steps),), epsilon, delta, accountant))
