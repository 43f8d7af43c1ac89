"""Membership: is this row among those that trained? Scores are higher for rows that seem to be.

    loss threshold   a row of small loss under the released model is said to be in (Yeom et al., 1709.01604)
    LiRA             the likelihood ratio of the row's confidence between shadow runs that had the row and shadow runs
                     that had not (Carlini et al., 2112.03570, Algorithm 1); with few runs one deviation is shared by
                     all rows, as there (section VI.C)

Attacks are compared where it hurts: by how many members are found while hardly anybody is accused wrongly.
"""

from __future__ import annotations

import numpy as np

FALSE_POSITIVES = 0.01


def auc(scores: np.ndarray, included: np.ndarray) -> float:
    """Probability that a row that was in scores above one that was not, ties half; NaN where there is no pair."""
    inside, outside = scores[included], scores[~included]
    if not len(inside) or not len(outside):
        return float("nan")
    above = (inside[:, None] > outside).mean() + 0.5 * (inside[:, None] == outside).mean()
    return float(above)


def auc_se(included: np.ndarray) -> float:
    """Standard deviation of the AUC of scores that know nothing of these coins (Mann-Whitney); NaN without pairs."""
    inside, outside = int(included.sum()), int((~included).sum())
    return float(np.sqrt((inside + outside + 1) / (12 * inside * outside))) if inside and outside else float("nan")


def true_positive_rate(scores: np.ndarray, included: np.ndarray, false_positives: float = FALSE_POSITIVES) -> float:
    """Share of members found when at most this share of the others is accused; NaN without members or others."""
    inside, outside = scores[included], np.sort(scores[~included])[::-1]
    if not len(inside) or not len(outside):
        return float("nan")
    threshold = outside[min(len(outside) - 1, int(false_positives * len(outside)))]
    return float((inside > threshold).mean())


def confidence(nll: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of the right answer from its negative log-likelihood: about normal over runs, unlike p."""
    logits: np.ndarray = -nll - np.log(-np.expm1(-np.maximum(nll, 1e-12)))
    return logits


def lira(observed: np.ndarray, shadows: np.ndarray, included: np.ndarray) -> np.ndarray:
    """(m,) log-likelihood ratios from (m,) confidences, (s, m) confidences in shadow runs and (s, m) who was in there.

    A row that was in all or in none of the shadow runs is given the mean of the other side's rows.
    """
    means = {}
    residuals = np.zeros_like(shadows)
    for side in (True, False):
        chosen = included == side
        count = chosen.sum(0)
        common = shadows[chosen].mean() if chosen.any() else 0.0
        means[side] = np.where(count > 0, (shadows * chosen).sum(0) / np.maximum(count, 1), common)
        residuals += np.where(chosen, shadows - means[side], 0)
    free = max(1, shadows.size - 2 * shadows.shape[1])  # two means were fitted to each row
    variance = max(float((residuals**2).sum() / free), 1e-12)
    distances: np.ndarray = (observed - means[False]) ** 2 - (observed - means[True]) ** 2
    return distances / (2 * variance)
