"""A lower bound of epsilon from one run (Steinke, Nasr & Jagielski 2023, 2305.08846).

m rows trained or not by independent fair coins. An attacker sees what the run released, says of some rows that they
were in, of some that they were out, and is silent about the rest. Under (epsilon, delta)-DP with respect to each row,
the number W of right ones among r guesses obeys, for every v,

    P[W >= v] <= beta + 2 m delta alpha,    beta = P[Binomial(r, e^epsilon / (1 + e^epsilon)) >= v],
    alpha = max over i = 1..m of P[v > Binomial(r, ...) >= v - i] / i         (Theorem 5.2)

so an epsilon at which what was seen is rarer than 1 - confidence is refuted. Rows are guessed in the order of a score;
how many is tried for several shares of m, at a confidence that pays for all of them (Bonferroni).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHARES = (1.0, 0.5, 0.25, 0.1)  # of the rows, guessed about
MAX_EPSILON = 100.0


@dataclass(frozen=True, slots=True)
class LowerBound:
    """Epsilon is at least this, with the confidence asked for; the guesses that show it."""

    epsilon: float
    guesses: int
    correct: int


def p_value(num_rows: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Bound of the probability of at least so many right guesses under (epsilon, delta)-DP."""
    from scipy.stats import binom

    rate = 1 / (1 + np.exp(-epsilon))
    beta = float(binom.sf(correct - 1, guesses, rate))
    sums = np.cumsum(binom.pmf(correct - np.arange(1, correct + 1), guesses, rate))
    alpha = float(np.max(sums / np.arange(1, correct + 1), initial=0.0))
    return min(1.0, beta + 2 * num_rows * delta * alpha)


def epsilon_at_least(num_rows: int, guesses: int, correct: int, delta: float, confidence: float) -> float:
    """The largest epsilon that so many right guesses refute; 0 when they refute none."""
    low, high = 0.0, MAX_EPSILON
    if p_value(num_rows, guesses, correct, 0.0, delta) >= 1 - confidence:
        return 0.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        refuted = p_value(num_rows, guesses, correct, middle, delta) < 1 - confidence
        low, high = (middle, high) if refuted else (low, middle)
    return low


def lower_bound(scores: np.ndarray, included: np.ndarray, delta: float, confidence: float) -> LowerBound:
    """From scores (m,), higher for rows that seem to have trained, and the coins (m,).

    Half of the guesses say "in", of the highest scores, and half "out", of the lowest.
    """
    order, m = np.argsort(-scores, kind="stable"), len(scores)
    best = LowerBound(0.0, 0, 0)
    each = 1 - (1 - confidence) / len(SHARES)
    for share in SHARES:
        half = int(share * m / 2)
        if not half:
            continue
        correct = int(included[order[:half]].sum() + (~included[order[-half:]]).sum())
        epsilon = epsilon_at_least(m, 2 * half, correct, delta, each)
        if epsilon > best.epsilon or not best.guesses:
            best = LowerBound(epsilon, 2 * half, correct)
    return best
