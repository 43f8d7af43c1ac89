"""The lower bound of epsilon against hand-computed and published values, and mechanisms of known epsilon."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from fedsim.attacks.bounds import SHARES, epsilon_at_least, lower_bound, p_value


def published_p_value(m: int, r: int, v: int, eps: float, delta: float) -> float:
    """The code in appendix D of 2305.08846, as printed."""
    q = 1 / (1 + math.exp(-eps))
    beta = binom.sf(v - 1, r, q)
    alpha = total = 0.0
    for i in range(1, v + 1):
        total += binom.pmf(v - i, r, q)
        if total > i * alpha:
            alpha = total / i
    return min(beta + alpha * delta * 2 * m, 1)


def test_p_value_by_hand() -> None:
    """Three right guesses of three at epsilon log 3: (3/4)^3; delta adds 2 m delta max(27/64, 36/64/... )."""
    assert p_value(3, 3, 3, math.log(3), 0.0) == pytest.approx(27 / 64)
    alpha = max(27 / 64, (27 + 9) / 64 / 2, (27 + 9 + 1) / 64 / 3)  # Binomial(3, 3/4): 1, 9, 27, 27 of 64
    assert p_value(5, 3, 3, math.log(3), 1e-3) == pytest.approx(27 / 64 + 2 * 5 * 1e-3 * alpha)
    assert p_value(10, 10, 0, 1.0, 0.0) == 1


@pytest.mark.parametrize("guesses", [(100, 100, 80), (1000, 100, 95), (1000, 1000, 600), (40, 12, 12), (50, 7, 0)])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0, 6.0])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-2])
def test_p_value_is_the_published_code(guesses, epsilon, delta) -> None:
    assert p_value(*guesses, epsilon, delta) == pytest.approx(published_p_value(*guesses, epsilon, delta), rel=1e-9)


def test_all_right_refutes_up_to_the_closed_form() -> None:
    """r right guesses of r have probability (e^eps / (1 + e^eps))^r: refuted below 0.05 ** (1 / r)."""
    rate = 0.05 ** (1 / 100)
    assert epsilon_at_least(100, 100, 100, 0.0, 0.95) == pytest.approx(math.log(rate / (1 - rate)), abs=1e-3)
    assert epsilon_at_least(100, 100, 50, 0.0, 0.95) == 0
    assert epsilon_at_least(100, 100, 80, 1e-5, 0.95) < epsilon_at_least(100, 100, 80, 0.0, 0.95)


def test_scores_become_guesses() -> None:
    included = np.array([True] * 20 + [False] * 20)
    best = lower_bound(included.astype(float), included, 0.0, 0.95)
    assert (best.guesses, best.correct) == (40, 40)
    assert best.epsilon == epsilon_at_least(40, 40, 40, 0.0, 1 - 0.05 / len(SHARES))
    worst = lower_bound(-included.astype(float), included, 0.0, 0.95)
    assert (worst.epsilon, worst.correct) == (0.0, 0)


def test_silence_helps_where_only_a_few_are_sure() -> None:
    rng = np.random.default_rng(0)
    included = rng.random(400) < 0.5
    scores = np.where(np.arange(400) < 40, np.where(included, 10.0, -10.0), rng.normal(size=400))
    best = lower_bound(scores, included, 0.0, 0.95)
    assert best.guesses == 40  # 20 of each kind, of 40 sure rows that are not half and half
    assert best.correct >= 38


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_randomised_response_is_bounded_below_its_epsilon_and_not_far(epsilon: float) -> None:
    """Each coin told right with probability e^eps / (1 + e^eps): pure epsilon-DP, and no bound could be tighter."""
    bounds = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        included = rng.random(1000) < 0.5
        told = included ^ (rng.random(1000) > 1 / (1 + math.exp(-epsilon)))
        bounds.append(lower_bound(told + 1e-6 * rng.random(1000), included, 0.0, 0.95).epsilon)
    assert sum(bound > epsilon for bound in bounds) <= 2
    assert np.mean(bounds) > 0.65 * epsilon


def test_no_information_refutes_nothing() -> None:
    bounds = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        bounds.append(lower_bound(rng.normal(size=200), rng.random(200) < 0.5, 1e-5, 0.95).epsilon)
    assert sum(bound > 0 for bound in bounds) <= 4
