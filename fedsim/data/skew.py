"""How far apart banks are, in numbers: what "non-IID" means for one split.

label_tv       total variation between a bank's label shares and the pool's: the share of its rows that would have to
               get another label; 0 is the same, and 1 cannot be passed
label_js       Jensen-Shannon divergence of the same two, in bits, from 0 to 1
feature_shift  mean over columns of the distance between a bank's values and the pool's: the largest difference of the
               two distribution functions (Kolmogorov-Smirnov) of a number, total variation of a category
embedding_shift  half the distance between the mean direction of a bank's texts and the pool's, as the base model sees
               them: 0 is the same, and 1 cannot be passed; known where embeddings are given
gini           inequality of the banks' sizes: 0 where all are equal, towards 1 where one has all rows
effective      exp of the entropy of the sizes' shares: so many banks of equal size would be as spread out

Pool means all banks together. Small banks differ from it by chance alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from fedsim.core import seeds
from fedsim.core.rows import BankRows, Corpus
from fedsim.data.base import Columns
from fedsim.data.columns import encode
from fedsim.data.directions import directions, distances, plane

SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")
DISTANCES = ("label_tv", "label_js", "feature_shift", "embedding_shift")
MAX_POINTS = 1500  # on a map
MAX_CATEGORIES = 100  # a column with more texts is a name or a date, not a feature


@dataclass(frozen=True, slots=True)
class BankSkew:
    """One bank; ``labels`` are counts of its rows per label word, train and test. A distance is None without data."""

    name: str
    train: int
    test: int
    labels: tuple[int, ...]
    prompt_length: float  # median, characters
    label_tv: float | None
    label_js: float | None
    feature_shift: float | None
    most_shifted: str | None  # the column with the largest distance
    embedding_shift: float | None = None


@dataclass(frozen=True, slots=True)
class SplitSkew:
    """One split. The distances are means over banks, weighted by their rows."""

    label_words: tuple[str, ...]
    banks: tuple[BankSkew, ...]
    gini: float
    effective: float
    label_tv: float | None
    label_js: float | None
    feature_shift: float | None
    embedding_shift: float | None = None
    map: tuple[tuple[int, float, float], ...] | None = None  # (bank, x, y) of rows drawn at random, on two main axes

    def plain(self) -> dict[str, Any]:
        """Lists, texts and numbers, as JSON has them."""
        return asdict(self)


def measure(
    corpus: Corpus,
    banks: Sequence[BankRows],
    leave_out: Collection[str] = (),
    embeddings: np.ndarray | None = None,
) -> SplitSkew:
    """The skew of a split. ``leave_out`` names columns that are no features: label, test marker, the split's own.

    ``embeddings`` (n, d) are the base model's of the prompts.
    """
    rows = [np.concatenate([bank.train, bank.test]) for bank in banks]
    pool = np.concatenate(rows)
    counts = np.array([_label_counts(corpus, own) for own in rows])
    everyone = counts.sum(axis=0)
    shifts = _feature_shifts(corpus.columns, rows, pool, {"label", *leave_out})
    lengths = np.array([len(prompt) for prompt in corpus.prompts])
    points = None if embeddings is None else directions(embeddings)
    apart = None if points is None else distances(points, rows).tolist()
    measured = []
    for number, bank in enumerate(banks):
        tv, js = _label_distances(counts[number], everyone)
        own = {column: float(values[number]) for column, values in shifts.items()}
        measured.append(
            BankSkew(
                name=bank.name,
                train=len(bank.train),
                test=len(bank.test),
                labels=tuple(counts[number].tolist()),
                prompt_length=float(np.median(lengths[rows[number]])),
                label_tv=tv,
                label_js=js,
                feature_shift=float(np.mean(list(own.values()))) if own else None,
                most_shifted=max(own, key=lambda column: own[column]) if own else None,
                embedding_shift=None if apart is None else apart[number],
            )
        )
    sizes = np.array([len(own) for own in rows])
    means = {name: _mean(measured, name, sizes) for name in DISTANCES}
    on_map = None if points is None else _map(points, rows)
    return SplitSkew(corpus.label_words, tuple(measured), gini(sizes), effective_number(sizes), **means, map=on_map)


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    """Half the sum of absolute differences of two distributions (k,)."""
    return float(np.abs(p - q).sum() / 2)


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Entropy of the mean minus mean of the entropies, in bits."""
    return max(0.0, _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2)


def gini(sizes: np.ndarray) -> float:
    """Mean absolute difference of two sizes over twice their mean (k,)."""
    count = len(sizes)
    differences = 2 * (np.sort(sizes) * (2 * np.arange(count) - count + 1)).sum() / count**2
    return float(differences / (2 * sizes.mean()))


def effective_number(sizes: np.ndarray) -> float:
    """exp of the entropy (in nats) of the shares (k,); equal sizes give k."""
    return float(2 ** _entropy(sizes / sizes.sum()))


def kolmogorov_smirnov(values: np.ndarray, pool: np.ndarray) -> float:
    """The largest difference of two empirical distribution functions; both (n,) are sorted.

    Between two of ``values`` theirs is flat and the pool's rises, so it is enough to look on both sides of each.
    """
    differences = [
        np.searchsorted(values, values, side=side) / len(values) - np.searchsorted(pool, values, side=side) / len(pool)
        for side in SIDES
    ]
    return float(np.abs(differences).max())


def _entropy(p: np.ndarray) -> float:
    """Bits."""
    positive = p[p > 0]
    return float(-(positive * np.log2(positive)).sum())


def _label_counts(corpus: Corpus, rows: np.ndarray) -> np.ndarray:
    return (
        np.bincount(corpus.labels[rows], minlength=len(corpus.label_words)) if corpus.label_words else np.zeros(0, int)
    )


def _label_distances(own: np.ndarray, pool: np.ndarray) -> tuple[float | None, float | None]:
    if own.sum() == 0:
        return None, None
    p, q = own / own.sum(), pool / pool.sum()
    return total_variation(p, q), jensen_shannon(p, q)


def _feature_shifts(
    columns: Columns, rows: Sequence[np.ndarray], pool: np.ndarray, leave_out: Collection[str]
) -> Mapping[str, np.ndarray]:
    """(banks,) distances to the pool of every column that is a feature."""
    shifts = {}
    for name, values in columns.items():
        if name in leave_out:
            continue
        if values.dtype.kind in "biuf":
            numbers = values.astype(np.float64)
            known = [np.sort(numbers[own][np.isfinite(numbers[own])]) for own in rows]
            everyone = np.sort(np.concatenate(known))
            if len(np.unique(everyone)) > 1 and all(map(len, known)):
                shifts[name] = np.array([kolmogorov_smirnov(own, everyone) for own in known])
        elif (codes := _categories(values)) is not None:
            counts = np.array([np.bincount(codes[own] + 1, minlength=codes.max() + 2) for own in rows])
            shares = counts / counts.sum(axis=1, keepdims=True)
            everyone = counts.sum(axis=0) / len(pool)
            shifts[name] = np.array([total_variation(own, everyone) for own in shares])
    return shifts


def _categories(values: np.ndarray) -> np.ndarray | None:
    """(n,) codes, -1 where missing; None where the column has one value, too many, or no single ones."""
    try:
        names, codes = encode(values)
    except TypeError:
        return None
    return codes if 1 < len(names) <= MAX_CATEGORIES else None


def _map(points: np.ndarray, rows: Sequence[np.ndarray]) -> tuple[tuple[int, float, float], ...]:
    """At most ``MAX_POINTS`` rows as (bank, x, y); the same ones every time."""
    owners = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
    pool = np.concatenate(rows)
    places = plane(points[pool])
    chosen = np.sort(seeds.rng(0, "map").permutation(len(pool))[:MAX_POINTS])
    return tuple((int(owners[i]), round(float(places[i, 0]), 4), round(float(places[i, 1]), 4)) for i in chosen)


def _mean(banks: Sequence[BankSkew], name: str, sizes: np.ndarray) -> float | None:
    values = [getattr(bank, name) for bank in banks]
    return None if None in values else float(np.average(values, weights=sizes))
