"""Membership attacks on scores that one can check by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedsim.attacks.membership import auc, auc_se, confidence, lira, true_positive_rate


def test_auc_counts_pairs_and_ties_half() -> None:
    scores, included = np.array([3.0, 1.0, 2.0, 1.0]), np.array([True, True, False, False])
    assert auc(scores, included) == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert math.isnan(auc(scores, np.zeros(4, bool)))


def test_the_standard_error_is_that_of_scores_that_know_nothing() -> None:
    rng = np.random.default_rng(0)
    coins = np.arange(60) < 25
    areas = [auc(rng.normal(size=60), coins) for _ in range(2000)]
    assert np.std(areas) == pytest.approx(auc_se(coins), rel=0.06)
    assert math.isnan(auc_se(np.ones(5, bool)))


def test_members_found_while_one_in_a_hundred_is_accused() -> None:
    outside = np.arange(200.0)
    inside = np.array([150.0, 197.5, 198.5, 500.0])
    scores = np.concatenate([inside, outside])
    included = np.arange(204) < 4
    assert true_positive_rate(scores, included) == 0.75  # above 197, the highest but two of the others
    assert true_positive_rate(scores, included, 0.0) == 0.25
    assert math.isnan(true_positive_rate(outside, np.ones(200, bool)))


def test_confidence_is_the_logit_of_the_answers_probability() -> None:
    p = np.array([0.1, 0.5, 0.9, 0.999])
    assert np.allclose(confidence(-np.log(p)), np.log(p / (1 - p)))
    assert np.isfinite(confidence(np.array([0.0]))).all()


def test_likelihood_ratios_by_hand() -> None:
    """One row, in with confidence 2 and 4, out with 0 and 1; residuals -1, 1, -.5, .5, two means fitted."""
    shadows, coins = np.array([[2.0], [4.0], [0.0], [1.0]]), np.array([[True], [True], [False], [False]])
    variance = (1 + 1 + 0.25 + 0.25) / 2
    for observed in (3.0, 0.5, 1.75):
        expected = ((observed - 0.5) ** 2 - (observed - 3) ** 2) / (2 * variance)
        assert lira(np.array([observed]), shadows, coins) == pytest.approx([expected])


def test_lira_beats_the_threshold_where_rows_differ_in_difficulty() -> None:
    """Rows have levels of their own, which drown the small shift that training on a row makes."""
    rng = np.random.default_rng(0)
    level, shift = rng.normal(0, 5, 300), 1.0
    coins = rng.random((9, 300)) < 0.5
    seen = level + shift * coins + rng.normal(0, 0.5, (9, 300))
    observed, included = seen[0], coins[0]
    assert auc(observed, included) < 0.65
    assert auc(lira(observed, seen[1:], coins[1:]), included) > 0.85


def test_a_row_that_was_always_in_is_given_the_others_mean() -> None:
    shadows, coins = np.array([[1.0, 0.0], [1.2, 1.0]]), np.array([[True, False], [True, True]])
    assert np.isfinite(lira(np.array([1.0, 1.0]), shadows, coins)).all()
