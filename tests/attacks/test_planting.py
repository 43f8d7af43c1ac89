"""Planted rows: fair coins, strange canaries, and nothing public that follows a coin."""

from __future__ import annotations

import numpy as np
import pytest

from fedsim.attacks.planting import MOST_ORDINARY, Planted, ordinary, plant, tossed, training, with_canaries
from fedsim.core.errors import DataError
from fedsim.core.rows import BankRows, Corpus
from tests import tiny

NONE = np.zeros(0, dtype=np.int64)
BANKS = (BankRows("a", np.arange(100), NONE), BankRows("b", np.arange(100, 160), NONE))


def planted(seed: int = 1, run: int = 0) -> Planted:
    return tossed(plant(BANKS, 10, 6, seed), seed, run)


def test_every_bank_has_its_own_rows_and_fair_coins() -> None:
    one = planted()
    assert len(one.rows) == len(set(one.rows)) == 32
    for bank in BANKS:
        assert set(one.rows[one.at(bank.name)]) <= set(bank.train)
        assert one.canary[one.at(bank.name)].sum() == 10
    shares = np.stack([planted(run=run).included for run in range(400)]).mean(0)
    assert np.abs(shares - 0.5).max() < 5 * 0.5 / 20
    assert not np.array_equal(planted(run=1).included, planted(run=2).included)
    assert np.array_equal(planted().included, planted().included)
    assert np.array_equal(planted(run=3).rows, planted().rows)


def test_rows_that_are_out_train_nowhere_and_the_public_number_does_not_tell() -> None:
    numbers = set()
    for run in range(5):
        one = planted(run=run)
        banks = training(BANKS, one)
        everyone = set(np.concatenate([bank.train for bank in banks]))
        assert everyone == set(range(160)) - set(one.rows[~one.included])
        numbers.add(tuple(bank.num_examples for bank in banks))
    assert numbers == {(100 - 8, 60 - 8)}


def test_ordinary_rows_are_the_banks_own_and_not_planted() -> None:
    one = planted()
    known = ordinary(BANKS, one, 1)
    for bank in BANKS:
        assert set(known[bank.name]) <= set(bank.train) - set(one.rows)
    assert (len(known["a"]), len(known["b"])) == (MOST_ORDINARY, 60 - 16)


def test_canaries_are_unlike_their_rows_and_members_are_as_they_are() -> None:
    corpus = tiny.corpus(160)
    one = planted()
    marked = with_canaries(corpus, one, 1)
    canaries = one.rows[one.canary]
    others = np.setdiff1d(np.arange(160), canaries)
    assert (marked.labels[canaries] != corpus.labels[canaries]).all()
    assert all(marked.answers[row] == corpus.label_words[marked.labels[row]] for row in canaries)
    assert sum(marked.prompts[row] != corpus.prompts[row] for row in canaries) == 20
    assert all(len(marked.prompts[row].split()) == len(corpus.prompts[row].split()) for row in canaries)
    assert all(
        (marked.prompts[row], marked.answers[row]) == (corpus.prompts[row], corpus.answers[row]) for row in others
    )
    assert (marked.labels[others] == corpus.labels[others]).all()


def test_free_text_canaries_have_another_canarys_answer() -> None:
    answers = tuple(f"answer {row}" for row in range(160))
    corpus = Corpus(tuple("a b c" for _ in answers), answers, np.full(160, -1), (), np.zeros(160, bool))
    one = planted()
    marked = with_canaries(corpus, one, 1)
    canaries = one.rows[one.canary]
    assert all(marked.answers[row] != answers[row] for row in canaries)
    assert sorted(marked.answers) == sorted(answers)


def test_canary_images_are_shuffled() -> None:
    images = np.arange(160 * 4 * 4 * 3, dtype=np.uint8).reshape(160, 4, 4, 3)
    labels = np.zeros(160, dtype=np.int64)
    corpus = Corpus(("",) * 160, ("x",) * 160, labels, ("x", "y", "z"), np.zeros(160, bool), images=images)
    one = planted()
    marked = with_canaries(corpus, one, 1)
    row = one.rows[one.canary][0]
    assert not np.array_equal(marked.images[row], images[row])
    assert sorted(map(tuple, marked.images[row].reshape(-1, 3))) == sorted(map(tuple, images[row].reshape(-1, 3)))
    other = np.setdiff1d(np.arange(160), one.rows[one.canary])
    assert np.array_equal(marked.images[other], images[other])
    assert set(marked.labels[one.rows[one.canary]]) == {1, 2}


def test_more_than_half_of_a_bank_is_refused() -> None:
    with pytest.raises(DataError, match="'b' has 60 training rows, and 31 of them"):
        plant(BANKS, 20, 11, 1)
