"""The synthetic loan book: its probabilities are true, its best AUC is known, and its banks differ as asked."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

from fedsim.core.rows import Corpus
from fedsim.data import PARTITIONERS, SOURCES, split_banks
from fedsim.data.loan_book import CATEGORIES, FEATURES, LABEL_WORDS, best_auc, p_default, render

IID = {"quantity": 0.0, "label": 0.0, "feature": 0.0}


def load(seed: int = 3, **knobs: Any) -> Corpus:
    return SOURCES.create("loan_book", knobs).load(seed)


def banks_of(corpus: Corpus) -> dict[str, np.ndarray]:
    names = corpus.columns["bank"]
    return {str(name): np.flatnonzero(names == name) for name in np.unique(names)}


@pytest.fixture(scope="module")
def book() -> Corpus:
    return load(rows_per_bank=5000)


@pytest.fixture(scope="module")
def iid() -> Corpus:
    return load(rows_per_bank=5000, skew=IID)


def test_default_probabilities_are_calibrated(book: Corpus) -> None:
    p = book.columns["p_default"]
    for low in np.arange(0, 1, 0.1):
        rows = (p >= low) & (p < low + 0.1)
        deviation = np.sqrt((p[rows] * (1 - p[rows])).sum()) / rows.sum()
        assert abs(book.labels[rows].mean() - p[rows].mean()) < 4 * deviation


def test_a_default_probability_by_hand() -> None:
    loan = {
        "amount": 25,
        "term_months": 66,
        "revenue": 30,
        "debt_ratio": 57,
        "years_in_business": 8,
        "late_payments": 2,
    }
    columns = {name: np.array([value]) for name, value in loan.items()}
    columns |= {"sector": np.array(["farming"], dtype=object), "region": np.array(["north"], dtype=object)}
    # intercept -1.9, term one unit above its middle (+0.5), debt ratio one unit above its middle (+1.3)
    np.testing.assert_allclose(p_default(columns), [1 / (1 + np.exp(0.1))])


def test_the_best_auc_is_in_its_band_and_the_same_with_and_without_skew(book: Corpus, iid: Corpus) -> None:
    everything = np.arange(len(book))
    assert 0.85 < best_auc(book, everything) < 0.9
    assert abs(best_auc(book, everything) - best_auc(iid, everything)) < 0.01
    assert all(0.85 < best_auc(book, rows) < 0.9 for rows in banks_of(book).values())


def test_best_auc_is_the_expected_auc_of_the_true_probabilities(book: Corpus) -> None:
    rows = np.flatnonzero(book.test)
    p = book.columns["p_default"][rows]
    assert abs(best_auc(book, rows) - roc_auc_score(book.labels[rows], p)) < 0.015


def test_best_auc_by_hand() -> None:
    nothing = ("",) * 3
    columns = {"p_default": np.array([0.8, 0.5, 0.5])}
    corpus = Corpus(nothing, nothing, np.zeros(3, dtype=np.int64), LABEL_WORDS, np.zeros(3, dtype=bool), columns)
    # pairs (first defaults, second repaid): 0.8*0.5 twice in order, 0.5*0.2 twice out of order, 0.25 twice as ties
    assert best_auc(corpus, np.arange(3)) == pytest.approx((0.8 + 0.25) / (0.8 + 0.2 + 0.5))


def test_labels_words_and_columns_agree(book: Corpus) -> None:
    assert book.label_words == LABEL_WORDS == ("repaid", "default")
    assert book.answers == tuple(LABEL_WORDS[label] for label in book.labels) == tuple(book.columns["label"])
    assert set(book.columns) == {"bank", "label", "p_default", *(f.name for f in FEATURES), *CATEGORIES}
    assert 0.2 < book.labels.mean() < 0.4


def test_a_prompt_shows_the_features_and_nothing_else(book: Corpus) -> None:
    shown = {name: book.columns[name] for name in (*(feature.name for feature in FEATURES), *CATEGORIES)}
    assert list(book.prompts) == render(shown)
    assert not any(word in prompt for prompt in book.prompts for word in ("repaid", "default", "bank-"))
    numbers = [int(number) for number in re.findall(r"\d+", book.prompts[0])]
    assert numbers == [int(book.columns[feature.name][0]) for feature in FEATURES]


def test_numbers_have_two_digits_at_most(book: Corpus) -> None:
    for feature in FEATURES:
        assert feature.low <= book.columns[feature.name].min()
        assert book.columns[feature.name].max() <= feature.high <= 99


def test_the_same_seed_gives_the_same_book() -> None:
    first, again, other = load(5, rows_per_bank=50), load(5, rows_per_bank=50), load(6, rows_per_bank=50)
    assert first.prompts == again.prompts
    assert first.answers == again.answers
    assert np.array_equal(first.test, again.test)
    assert first.prompts != other.prompts


def test_no_skew_means_identical_banks(iid: Corpus) -> None:
    banks = banks_of(iid)
    assert [len(rows) for rows in banks.values()] == [5000] * 4
    rates = [iid.labels[rows].mean() for rows in banks.values()]
    assert max(rates) - min(rates) < 0.04  # 5000 labels: a deviation of 0.0065
    for feature in FEATURES:
        z = feature.standard(iid.columns[feature.name])
        means = [z[rows].mean() for rows in banks.values()]
        assert max(means) - min(means) < 0.1
    for name, values in CATEGORIES.items():
        for value in values:
            shares = [(iid.columns[name][rows] == value).mean() for rows in banks.values()]
            assert max(shares) - min(shares) < 0.04


@pytest.mark.parametrize(("kind", "quantity", "label", "feature"), [(0, 1, 0, 0), (1, 0, 1, 0), (2, 0, 0, 1)])
def test_each_skew_moves_what_it_names(kind: int, quantity: float, label: float, feature: float) -> None:
    book = load(rows_per_bank=4000, skew={"quantity": quantity, "label": label, "feature": feature})
    banks = banks_of(book)
    sizes = [len(rows) for rows in banks.values()]
    log_odds = np.log(book.columns["p_default"] / (1 - book.columns["p_default"]))
    risks = [log_odds[rows].mean() for rows in banks.values()]
    sectors = [(book.columns["sector"][rows] == "retail").mean() for rows in banks.values()]
    spreads = [np.log(sizes).std(), np.std(risks), np.std(sectors)]
    assert [spread > limit for spread, limit in zip(spreads, (0.3, 0.6, 0.03), strict=True)] == [
        skew == kind for skew in range(3)
    ]
    assert abs(sum(sizes) - 16_000) <= 2


def test_banks_are_a_natural_partition_with_test_rows_at_each() -> None:
    book = load(rows_per_bank=100, num_banks=3, test_fraction=0.25, skew=IID)
    banks = split_banks(book, PARTITIONERS.create("by_column", {"column": "bank", "num_banks": 3}), 0)
    assert sorted(bank.name for bank in banks) == ["bank-00", "bank-01", "bank-02"]
    assert [(len(bank.train), len(bank.test)) for bank in banks] == [(75, 25)] * 3


def test_one_bank_no_test_rows_and_many_banks() -> None:
    assert load(rows_per_bank=40, num_banks=1).test.sum() == 8
    assert load(rows_per_bank=40, num_banks=1, test_fraction=0).test.sum() == 0
    assert set(banks_of(load(rows_per_bank=10, num_banks=101, skew=IID))) >= {"bank-000", "bank-100"}


@pytest.mark.parametrize(
    "knobs", [{"num_banks": 0}, {"rows_per_bank": 1}, {"test_fraction": 1.0}, {"skew": {"label": -1}}]
)
def test_impossible_knobs_are_refused(knobs: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        load(**knobs)
