"""A synthetic loan book of several banks, in which every loan's true default probability is known.

A loan has six numbers, a sector and a region, all of them written in its prompt. Its default probability is one fixed
logistic function of what is written, the same at every bank, so no model can rank loans better than ``p_default`` does
and ``best_auc`` is the best AUC there is. Banks differ by nature, each strength 0 for identical banks:

    quantity    how many loans a bank has
    label       how risky its customers are: features move along the risk direction, and its default rate with them
    feature     what kind of business it does: features move across the risk direction, and its sectors and regions vary

Banks are called bank-00, bank-01, ... and partition by the column ``bank``.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from pydantic import Field

from fedsim.core import seeds
from fedsim.core.registry import Config as Knobs
from fedsim.core.rows import Corpus
from fedsim.data.base import Columns, Source

LABEL_WORDS = ("repaid", "default")
INTERCEPT = -1.9  # about 28 % of all loans default without skew


@dataclass(frozen=True, slots=True)
class Feature:
    """A number of a loan: value = middle + spread z, or middle * exp(spread z), rounded and cut; z ~ N(0, 1).

    ``weight`` is what one standard unit adds to the log-odds of default.
    """

    name: str
    text: str
    weight: float
    middle: float
    spread: float
    low: int
    high: int
    relative: bool = False
    step: int = 1

    def value(self, z: np.ndarray) -> np.ndarray:
        raw = self.middle * np.exp(self.spread * z) if self.relative else self.middle + self.spread * z
        rounded: np.ndarray = (np.rint(np.clip(raw, self.low, self.high) / self.step) * self.step).astype(np.int64)
        return rounded

    def standard(self, value: np.ndarray) -> np.ndarray:
        """The inverse of ``value``, of the written number: what the reader of a prompt can know."""
        units: np.ndarray = np.log(value / self.middle) if self.relative else value - self.middle
        return units / self.spread


FEATURES = (
    Feature("amount", "amount {}k", 0.6, 25, 0.6, 4, 99, relative=True),
    Feature("term_months", "term {} months", 0.5, 48, 18, 6, 96, step=6),
    Feature("revenue", "revenue {}k", -1.0, 30, 0.6, 4, 99, relative=True),
    Feature("debt_ratio", "debt {}%", 1.3, 42, 15, 1, 95),
    Feature("years_in_business", "age {} years", -0.8, 8, 0.8, 1, 50, relative=True),
    Feature("late_payments", "late payments {}", 1.0, 2, 1.5, 0, 9),
)
SECTORS = {"retail": 0.3, "farming": 0.0, "transport": 0.3, "building": 0.4, "lodging": 0.4, "software": -0.2}
REGIONS = {"north": 0.0, "south": 0.2, "east": -0.2, "west": 0.0}
CATEGORIES = {"sector": SECTORS, "region": REGIONS}  # value -> what it adds to the log-odds
TEMPLATE = ", ".join([feature.text for feature in FEATURES] + [f"{name} {{}}" for name in CATEGORIES]) + ". Outcome:"


class Skew(Knobs):
    """How much banks differ: the standard deviation, over banks, of what the field says; 0 is none."""

    quantity: float = Field(default=0.5, ge=0, le=3, description="of the logarithm of a bank's number of loans")
    label: float = Field(default=0.5, ge=0, le=3, description="of a bank's mean log-odds of default")
    feature: float = Field(
        default=0.5, ge=0, le=3, description="of a bank's mean features, and of its log-shares of sectors and regions"
    )


class LoanBook(Source):
    """``kind: loan_book``."""

    class Config(Knobs):
        num_banks: int = Field(
            default=4, ge=1, le=10_000, description="banks: bank-00, bank-01, ... in the column bank"
        )
        rows_per_bank: int = Field(
            default=1000, ge=10, description="loans of a bank, train and test, on average over the banks"
        )
        skew: Skew = Skew()
        test_fraction: float = Field(
            default=0.2, ge=0, lt=1, description="share of each bank's loans that are test rows"
        )

    def load(self, seed: int) -> Corpus:
        """The loans in bank order. Columns: bank, label, p_default and every feature."""
        config = self.config
        width = max(2, len(str(config.num_banks - 1)))
        books = []
        for bank, (size, riskier) in enumerate(zip(self._sizes(seed), self._risk(seed), strict=True)):
            book = draw_loans(size, riskier, config.skew.feature, seeds.rng(seed, "loan book", bank))
            rng = seeds.rng(seed, "loan book test rows", bank)
            book["test"] = rng.permutation(size) < round(config.test_fraction * size)
            book["bank"] = np.full(size, f"bank-{bank:0{width}d}", dtype=object)
            books.append(book)
        columns = {name: np.concatenate([book[name] for book in books]) for name in books[0]}
        labels, test = columns.pop("default"), columns.pop("test")
        columns["label"] = np.array(LABEL_WORDS, dtype=object)[labels]
        return Corpus(
            prompts=tuple(render(columns)),
            answers=tuple(columns["label"].tolist()),
            labels=labels,
            label_words=LABEL_WORDS,
            test=test,
            columns=columns,
        )

    def _sizes(self, seed: int) -> list[int]:
        """Loans per bank; their sum is num_banks * rows_per_bank, up to rounding."""
        config = self.config
        shares = np.exp(config.skew.quantity * spread_out(config.num_banks, seeds.rng(seed, "loan book quantity")))
        sizes = np.rint(shares / shares.sum() * config.num_banks * config.rows_per_bank)
        return [int(size) for size in np.maximum(sizes, 2)]

    def _risk(self, seed: int) -> list[float]:
        """How far each bank's mean log-odds of default lie from the average."""
        scores = spread_out(self.config.num_banks, seeds.rng(seed, "loan book label"))
        return [float(score) for score in self.config.skew.label * scores]


def spread_out(number: int, rng: np.random.Generator) -> np.ndarray:
    """(number,) normal quantiles with mean 0 and variance 1 in random order: a few banks differ as much as many do."""
    if number == 1:
        return np.zeros(1)
    scores = np.array([NormalDist().inv_cdf((k + 0.5) / number) for k in range(number)])
    return rng.permutation(scores / scores.std())


def draw_loans(size: int, riskier: float, feature_skew: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One bank's loans by column, with ``p_default`` and ``default`` (0 or 1). ``riskier`` is in log-odds."""
    weights = np.array([feature.weight for feature in FEATURES])
    along = weights / (weights @ weights)  # one step along it adds 1 to the log-odds
    direction = rng.standard_normal(len(FEATURES))
    across = direction - (direction @ weights) * along  # leaves the log-odds as they are
    shift = riskier * along + feature_skew * across
    z = rng.standard_normal((size, len(FEATURES))) + shift
    book = {feature.name: feature.value(z[:, i]) for i, feature in enumerate(FEATURES)}
    for name, effects in CATEGORIES.items():
        shares = np.exp(feature_skew * rng.standard_normal(len(effects)))
        book[name] = rng.choice(np.array(list(effects), dtype=object), size, p=shares / shares.sum())
    book["p_default"] = p_default(book)
    book["default"] = (rng.random(size) < book["p_default"]).astype(np.int64)
    return book


def p_default(columns: Columns) -> np.ndarray:
    """(n,) the default probability of loans with these written features."""
    log_odds = np.full(len(columns[FEATURES[0].name]), INTERCEPT)
    for feature in FEATURES:
        log_odds += feature.weight * feature.standard(columns[feature.name])
    for name, effects in CATEGORIES.items():
        log_odds += np.array([effects[value] for value in columns[name]])
    return np.asarray(1 / (1 + np.exp(-log_odds)))


def render(columns: Columns) -> list[str]:
    """One prompt per loan. It shows the features and nothing else."""
    shown = [columns[name].tolist() for name in (*(feature.name for feature in FEATURES), *CATEGORIES)]
    return [TEMPLATE.format(*values) for values in zip(*shown, strict=True)]


def best_auc(corpus: Corpus, rows: np.ndarray) -> float:
    """The AUC of ranking ``rows`` (indices) by their true default probability: the best that any model can expect.

    Exact over the random labels of these loans: the expected number of rightly ordered pairs (a tie counts one half)
    over the expected number of pairs of a default and a repaid loan.
    """
    p = np.asarray(corpus.columns["p_default"], dtype=np.float64)[rows]
    _, group = np.unique(p, return_inverse=True)
    defaults, repaid = np.bincount(group, p), np.bincount(group, 1 - p)
    alone = float(p @ (1 - p))  # a loan is no pair with itself
    ordered = float(defaults @ (repaid.cumsum() - repaid / 2)) - alone / 2
    return ordered / (float(p.sum() * (1 - p).sum()) - alone)
