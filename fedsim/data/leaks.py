"""Columns that tell the label by themselves: a task that one column solves shows no method at work.

Values become categories (numbers with many values by quantiles). The share of each label in a category, learned on the
training rows, is used as a score on the test rows; a column separates the label when the area under the ROC curve of
every label word against the rest is at least ``ENOUGH``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fedsim.core.rows import Corpus
from fedsim.data.columns import encode

ENOUGH = 0.98
MAX_VALUES = 100  # of a number before it is cut into so many quantiles; texts with more are no categories
FEWEST = 5  # rows with and without a label, to say anything of it


def separating(corpus: Corpus, names: Sequence[str]) -> Iterator[tuple[str, float]]:
    """(column, smallest area under the curve) of those of ``names`` that separate the label."""
    if not corpus.label_words:
        return
    train = np.flatnonzero(~corpus.test)
    judged = np.flatnonzero(corpus.test) if corpus.test.any() else train
    for name in names:
        codes = _categories(corpus.columns[name]) if name in corpus.columns else None
        if codes is None:
            continue
        areas = [_area(codes, corpus.labels == label, train, judged) for label in range(len(corpus.label_words))]
        known = [area for area in areas if area is not None]
        if known and min(known) >= ENOUGH:
            yield name, min(known)


def _categories(values: np.ndarray) -> np.ndarray | None:
    """(n,) codes from 0, 0 where missing; None where the column is neither numbers nor categories."""
    if values.dtype.kind in "biuf":
        numbers = values.astype(np.float64)
        known = numbers[np.isfinite(numbers)]
        if len(np.unique(known)) > MAX_VALUES:
            cuts = np.unique(np.quantile(known, np.linspace(0, 1, MAX_VALUES + 1)[1:-1]))
            return np.where(np.isfinite(numbers), np.searchsorted(cuts, numbers) + 1, 0)
    try:
        found, codes = encode(values)
    except TypeError:
        return None
    return codes + 1 if 1 < len(found) <= MAX_VALUES else None


def _area(codes: np.ndarray, truth: np.ndarray, train: np.ndarray, judged: np.ndarray) -> float | None:
    """Of one label against the rest; None where too few rows have it, or have it not."""
    from sklearn.metrics import roc_auc_score

    if min(truth[judged].sum(), (~truth[judged]).sum(), truth[train].sum(), (~truth[train]).sum()) < FEWEST:
        return None
    size = int(codes.max()) + 1
    rows = np.bincount(codes[train], minlength=size)
    share = (np.bincount(codes[train], weights=truth[train], minlength=size) + truth[train].mean()) / (rows + 1)
    return float(roc_auc_score(truth[judged], share[codes[judged]]))
