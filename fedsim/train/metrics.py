"""From scores to metrics. They are computed from ``Scores`` alone, so those of a bank's share need no second pass.

The probability of a label word is the softmax of the length-normalised log-likelihoods over the label words. Ranks use
its log-odds, which do not saturate where the probability rounds to 1.

F1 of a yes or no is that of a threshold which maximises it on training rows (``f1_cut``): where few rows are positive,
the likelier word is hardly ever the positive one. Accuracy is that of the likelier word.

A metric that the rows do not define is NaN and never an error: the AUC of rows of one class, anything of no rows, and
everything of a model that diverged (a score that is not finite).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fedsim.core.metrics import metric_names, task_of
from fedsim.train.answers import JUDGES
from fedsim.train.values import Scores

POSITIVE = 1  # the label word whose probability a binary task is about
CALIBRATION_BINS = 10


def metrics(scores: Scores, num_labels: int, names: Sequence[str] | None = None) -> dict[str, float]:
    """The task's metrics by name (see ``fedsim.core.metrics``); only ``names`` of them when given."""
    chosen = metric_names(num_labels) if names is None else names
    if not len(scores) or not (np.isfinite(scores.nll).all() and np.isfinite(scores.log_probs).all()):
        return dict.fromkeys(chosen, math.nan)
    compute = COMPUTE[task_of(num_labels)]
    return {name: float(compute[name](scores)) for name in chosen}


def _log_odds(scores: Scores, label: int) -> np.ndarray:
    """(n,) log p / (1 - p) of a label word."""
    others = np.delete(scores.log_probs, label, axis=1)
    odds: np.ndarray = scores.log_probs[:, label] - np.logaddexp.reduce(others, axis=1)
    return odds


def _positive(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """(n,) probability of the positive label word, and (n,) whether it is the true one."""
    probability = np.exp(-np.logaddexp(0.0, -_log_odds(scores, POSITIVE)))
    return probability, scores.labels == POSITIVE


def _answers(scores: Scores) -> np.ndarray:
    """(n,) the most likely label word; the first of equals."""
    answers: np.ndarray = scores.log_probs.argmax(axis=1)
    return answers


def _auc_of(scores: Scores, label: int) -> float:
    from sklearn.metrics import roc_auc_score

    truth = scores.labels == label
    return float(roc_auc_score(truth, _log_odds(scores, label))) if 0 < truth.sum() < len(truth) else math.nan


def _auc(scores: Scores) -> float:
    return _auc_of(scores, POSITIVE)


def _macro_auc(scores: Scores) -> float:
    """Unweighted mean over the label words of one against the rest; words that no row or every row has do not count."""
    areas = [_auc_of(scores, label) for label in range(scores.log_probs.shape[1])]
    known = [area for area in areas if not math.isnan(area)]
    return math.fsum(known) / len(known) if known else math.nan


def _ks(scores: Scores) -> float:
    """Largest distance between the cumulative scores of the positive and of the negative rows."""
    from sklearn.metrics import roc_curve

    truth = scores.labels == POSITIVE
    if truth.all() or not truth.any():
        return math.nan
    false_positive, true_positive, _ = roc_curve(truth, _log_odds(scores, POSITIVE))
    return float(np.abs(true_positive - false_positive).max())


def _accuracy(scores: Scores) -> float:
    return float((_answers(scores) == scores.labels).mean())


def f1_cut(scores: Scores) -> float:
    """The log-odds above which the positive word has the highest F1 on these rows, midway between two rows' scores.

    Of equals the highest; 0, the likelier word, where no row is positive or the model has diverged.
    """
    truth, odds = scores.labels == POSITIVE, _log_odds(scores, POSITIVE)
    if not truth.any() or not np.isfinite(odds).all():
        return 0.0
    order = np.argsort(-odds)
    ranked, hits = odds[order], truth[order].cumsum()
    last = np.flatnonzero(np.diff(ranked, append=-np.inf) < 0)  # the last row answered; rows of one score go together
    f1 = 2 * hits[last] / (last + 1 + truth.sum())
    best = last[f1.argmax()]
    return float((ranked[best] + ranked[best + 1]) / 2) if best + 1 < len(ranked) else -math.inf


def _f1(scores: Scores) -> float:
    """F1 of the positive word; NaN when it is neither true nor answered anywhere."""
    from sklearn.metrics import f1_score

    truth, answered = scores.labels == POSITIVE, _log_odds(scores, POSITIVE) > scores.cut
    return float(f1_score(truth, answered, zero_division=math.nan))


def _macro_f1(scores: Scores) -> float:
    """Mean over the label words that are true or answered somewhere."""
    from sklearn.metrics import f1_score

    return float(f1_score(scores.labels, _answers(scores), average="macro"))


def _brier(scores: Scores) -> float:
    probability, truth = _positive(scores)
    return float(np.square(probability - truth).mean())


def _ece(scores: Scores) -> float:
    """Expected calibration error of the positive's probability in bins of equal width (Naeini et al., AAAI 2015)."""
    probability, truth = _positive(scores)
    bins = np.minimum((probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=probability - truth, minlength=CALIBRATION_BINS)  # (bins,) summed over rows
    return float(np.abs(gaps).sum() / len(truth))


def _nll(scores: Scores) -> float:
    return float(scores.nll.mean())


def _perplexity(scores: Scores) -> float:
    """exp of the mean over rows; a row's value is the mean over its tokens. inf beyond float64."""
    mean = _nll(scores)
    return math.exp(mean) if mean < math.log(np.finfo(np.float64).max) else math.inf


def _judged(name: str) -> Callable[[Scores], float]:
    """The mean over the rows to which a judge has something to say."""
    column = list(JUDGES).index(name)

    def mean(scores: Scores) -> float:
        known = scores.judged[:, column][~np.isnan(scores.judged[:, column])]
        return float(known.mean()) if len(known) else math.nan

    return mean


COMPUTE: Mapping[str, Mapping[str, Callable[[Scores], float]]] = {
    "binary": {
        "auc": _auc,
        "accuracy": _accuracy,
        "f1": _f1,
        "nll": _nll,
        "ks": _ks,
        "brier": _brier,
        "ece": _ece,
    },
    "choice": {"auc": _macro_auc, "accuracy": _accuracy, "f1": _macro_f1, "nll": _nll},
    "text": {"nll": _nll, "perplexity": _perplexity, **{name: _judged(name) for name in JUDGES}},
}
