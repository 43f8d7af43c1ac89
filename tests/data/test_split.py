"""Banks of a corpus: order, train and test, and what an error says."""

from __future__ import annotations

import numpy as np
import pytest

from fedsim.core.errors import DataError
from fedsim.core.registry import NoKnobs
from fedsim.core.rows import Corpus
from fedsim.data import PARTITIONERS, Partitioner, split_banks
from fedsim.data.base import Columns, Split


def corpus(banks: str, test: str = "") -> Corpus:
    """One row per letter of ``banks``; a 1 in ``test`` marks a test row."""
    count = len(banks)
    prompts = tuple("p" * (row + 1) for row in range(count))
    flags = np.array([mark == "1" for mark in test.ljust(count, "0")])
    columns = {"bank": np.array(list(banks), dtype=object), "label": np.array(["good"] * count, dtype=object)}
    return Corpus(prompts, ("good",) * count, np.zeros(count, dtype=np.int64), ("good", "bad"), flags, columns)


def test_train_and_test_rows_of_each_bank() -> None:
    banks = split_banks(corpus("xyxyyx", "001010"), PARTITIONERS.create("by_column", {"column": "bank"}), seed=1)
    assert [bank.name for bank in banks] == ["x", "y"]
    assert [bank.train.tolist() for bank in banks] == [[0, 5], [1, 3]]
    assert [bank.test.tolist() for bank in banks] == [[2], [4]]
    assert banks[0].train.dtype == np.int64
    assert banks[0].num_examples == 2


def test_the_seed_decides_the_split() -> None:
    partitioner = PARTITIONERS.create("iid", {"num_banks": 2})
    first, again, other = (split_banks(corpus("x" * 40), partitioner, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a.train, b.train) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].train, other[0].train)


def test_prompt_length_is_a_column_of_every_corpus() -> None:
    banks = split_banks(corpus("xxxx"), PARTITIONERS.create("by_length", {"num_banks": 2}), seed=1)
    assert [bank.train.tolist() for bank in banks] == [[0, 1], [2, 3]]


def test_an_empty_bank_is_named_with_the_knobs_and_the_seed() -> None:
    partitioner = PARTITIONERS.create("dirichlet", {"num_banks": 3, "alpha": 0.01, "min_partition_size": 0})
    with pytest.raises(DataError, match=r"^bank-0\d gets 0 of 6 rows.*\(num_banks 3, alpha 0.01, .*seed 3\)$"):
        split_banks(corpus("xyxyyx"), partitioner, seed=3)


def test_a_failed_draw_is_reported_with_the_knobs_and_the_seed() -> None:
    partitioner = PARTITIONERS.create("dirichlet", {"num_banks": 3, "alpha": 0.01, "min_partition_size": 2})
    with pytest.raises(DataError, match=r"in the best of 100 draws.*alpha 0.01.*seed 3\)$"):
        split_banks(corpus("xyxyyx"), partitioner, seed=3)


def test_a_bank_needs_training_rows_but_no_test_rows() -> None:
    partitioner = PARTITIONERS.create("by_column", {"column": "bank"})
    message = r"^y gets 0 training rows and 2 test rows, and 1 more banks are as small; 1 needed"
    with pytest.raises(DataError, match=message):
        split_banks(corpus("xxxyyz", "000111"), partitioner, seed=0)
    with pytest.raises(DataError, match=r"^y gets 2 training rows and 0 test rows; 3 needed"):
        split_banks(corpus("xxxyy"), partitioner, seed=0, min_rows=3)


class Careless(Partitioner):
    """Breaks the promise that banks are disjoint, or that rows exist."""

    Config = NoKnobs
    answer: Split

    def split(self, columns: Columns, rng: np.random.Generator) -> Split:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"a": np.array([0, 1]), "b": np.array([1])}, "row 1 was given out 2 times, to a and b"),
        ({"a": np.array([0, 0])}, "row 0 was given out 2 times, to a"),
        ({"a": np.array([0, 9])}, "a was given row 9 of 3 rows"),
        ({"a": np.array([-1])}, "a was given row -1 of 3 rows"),
    ],
)
def test_a_partitioner_that_breaks_its_promise_is_caught(answer: Split, message: str) -> None:
    partitioner = Careless(NoKnobs())
    partitioner.answer = answer
    with pytest.raises(DataError, match=message):
        split_banks(corpus("xyz"), partitioner, seed=0)
