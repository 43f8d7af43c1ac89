"""In which order the cohorts of a round are begun."""

from __future__ import annotations

from fedsim.engine.pool import longest_first


def test_the_longest_cohort_is_begun_first() -> None:
    banks, seconds = ["a", "b", "c", "d", "e"], {"a": 1.0, "b": 1.5, "c": 4.0, "d": 2.0, "e": 2.4}
    assert longest_first([(0, 1), (2,), (3, 4)], banks, seconds) == [(3, 4), (2,), (0, 1)]  # 4.4, 4.0, 2.5 s


def test_a_cohort_with_a_bank_that_has_not_trained_comes_before_all_others() -> None:
    assert longest_first([(0,), (1, 2)], ["a", "b", "c"], {"a": 9.0, "b": 1.0}) == [(1, 2), (0,)]


def test_cohorts_of_which_nothing_is_known_keep_their_order() -> None:
    assert longest_first([(0,), (1,), (2,)], ["a", "b", "c"], {}) == [(0,), (1,), (2,)]
