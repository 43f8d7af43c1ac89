"""Skew in numbers that can be checked by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fedsim.core.rows import BankRows, Corpus
from fedsim.data.directions import directions, distances, plane
from fedsim.data.skew import effective_number, gini, jensen_shannon, kolmogorov_smirnov, measure, total_variation


def test_label_distances() -> None:
    even, skewed, other = np.array([0.5, 0.5]), np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert total_variation(even, skewed) == 0.5
    assert (total_variation(skewed, other), jensen_shannon(skewed, other)) == (1.0, 1.0)
    assert (total_variation(even, even), jensen_shannon(even, even)) == (0.0, 0.0)
    assert jensen_shannon(even, skewed) == pytest.approx(0.8112781 - 0.5)  # entropy of (3/4, 1/4), minus (1 + 0) / 2


def test_sizes() -> None:
    assert (gini(np.array([5, 5, 5])), effective_number(np.array([5, 5, 5]))) == (0.0, pytest.approx(3.0))
    assert gini(np.array([0, 10])) == 0.5  # at most (k - 1) / k
    assert gini(np.array([4, 1, 1])) == pytest.approx(4 * 3 / 9 / (2 * 2))  # pairs that differ, twice each, by 3
    assert gini(np.arange(100_000)) == pytest.approx(1 / 3, rel=1e-4)  # without a table of pairs: it would take 80 GB
    assert effective_number(np.array([0, 10])) == 1.0
    assert effective_number(np.array([1, 1, 2])) == pytest.approx(2**1.5)


def test_kolmogorov_smirnov() -> None:
    pool = np.array([1.0, 2.0, 3.0, 4.0])
    assert kolmogorov_smirnov(np.array([1.0, 2.0]), pool) == 0.5
    assert kolmogorov_smirnov(pool, pool) == 0.0
    assert kolmogorov_smirnov(np.array([4.0, 4.0]), pool) == 0.75  # just before 4


def test_directions_forget_what_all_share_and_how_long_a_row_is() -> None:
    points = np.array([[10.0, 1.0], [10.0, -1.0], [10.0, 3.0], [10.0, -3.0]])
    assert directions(points).tolist() == [[0, 1], [0, -1], [0, 1], [0, -1]]


def test_distances_and_plane_of_directions() -> None:
    points = np.array([[0.0, 1.0], [0.0, -1.0], [0.0, 1.0], [0.0, -1.0], [1.0, 0.0]])
    apart = distances(points, [np.array([0, 2]), np.array([1, 3])])
    assert apart.tolist() == [0.5, 0.5]  # means (0, 1) and (0, -1), the pool's (0, 0)
    assert distances(points, [np.array([0, 1]), np.array([2, 3])]).tolist() == [0, 0]
    flat = plane(points)
    assert flat[:, 0] == pytest.approx([1, -1, 1, -1, 0])  # the vertical axis has the largest spread
    assert flat[:, 1] == pytest.approx([-0.2, -0.2, -0.2, -0.2, 0.8])


def test_a_split_with_embeddings_has_a_distance_and_a_map() -> None:
    banks = (BankRows("a", np.array([0, 2]), np.array([4])), BankRows("b", np.array([1, 3]), np.array([5])))
    embeddings = np.array([[1.0, 0], [-1, 0], [1, 0], [-1, 0], [1, 0], [-1, 0]])
    split = measure(corpus(), banks, embeddings=embeddings)
    assert (split.embedding_shift, [bank.embedding_shift for bank in split.banks]) == (0.5, [0.5, 0.5])
    assert split.map is not None
    assert sorted((bank, x) for bank, x, _ in split.map) == [(0, 1.0)] * 3 + [(1, -1.0)] * 3
    without = measure(corpus(), banks)
    assert (without.embedding_shift, without.map) == (None, None)


def corpus() -> Corpus:
    """Six rows: amounts 1 to 6, states in halves, a name per row, one label word twice as frequent."""
    labels = np.array([0, 0, 0, 0, 1, 1])
    columns = {
        "label": labels,
        "amount": np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        "state": np.array(["TX", "TX", "TX", "NY", "NY", None], dtype=object),
        "constant": np.ones(6),
        "lists": np.array([[1], [2], [3], [4], [5], [6], None], dtype=object)[:6],
        "bank": np.array(list("aaabbb"), dtype=object),
    }
    words = ("no", "yes")
    prompts = tuple("x" * length for length in (1, 2, 3, 10, 20, 30))
    return Corpus(prompts, tuple(words[label] for label in labels), labels, words, np.arange(6) % 3 == 2, columns)


def test_a_split() -> None:
    banks = (BankRows("a", np.array([0, 1]), np.array([2])), BankRows("b", np.array([3, 4]), np.array([5])))
    skew = measure(corpus(), banks, {"bank"})
    a, b = skew.banks
    assert (a.name, a.train, a.test, a.labels, a.prompt_length) == ("a", 2, 1, (3, 0), 2.0)
    assert (b.labels, b.prompt_length) == ((1, 2), 20.0)
    assert (a.label_tv, b.label_tv, skew.label_tv) == tuple(pytest.approx(1 / 3) for _ in range(3))
    assert (a.most_shifted, b.most_shifted) == ("amount", "amount")  # ties go to the first column
    assert a.feature_shift == pytest.approx(0.5)  # amount 3/3 - 3/6; state (1, 0, 0) from (3, 2, 1) / 6
    assert (skew.gini, skew.effective) == (0.0, pytest.approx(2.0))
    assert json.loads(json.dumps(skew.plain()))["banks"][1]["labels"] == [1, 2]


def test_free_text_has_no_label_distance() -> None:
    rows = Corpus(("a", "b"), ("x", "y"), np.array([-1, -1]), (), np.array([False, True]), {})
    skew = measure(rows, (BankRows("a", np.array([0]), np.array([1])),))
    assert (skew.label_tv, skew.banks[0].labels, skew.feature_shift, skew.banks[0].most_shifted) == (
        None,
        (),
        None,
        None,
    )
