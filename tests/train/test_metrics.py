"""Metrics on numbers that can be checked by hand, and beside scikit-learn's."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss, roc_auc_score

from fedsim.core.metrics import METRICS, Metric, all_metric_names, headline, metric_names, worse
from fedsim.train.metrics import COMPUTE, metrics
from fedsim.train.values import Scores


def scores(labels: list[int], log_probs: np.ndarray, nll: list[float] | None = None) -> Scores:
    n = len(labels)
    losses = np.ones(n) if nll is None else np.array(nll)
    return Scores(np.arange(n), np.array(labels), log_probs, losses, np.zeros((n, 0)))


def binary(labels: list[int], positive: list[float]) -> Scores:
    """Scores whose softmax gives these probabilities, with half of the mass on other words as a language model has."""
    p = np.array(positive)
    return scores(labels, np.log(np.stack([1 - p, p], 1)) - math.log(2))


def softmax(log_probs: np.ndarray) -> np.ndarray:
    odds = np.exp(log_probs - log_probs.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def test_binary_by_hand():
    # positives score .9 .6 .2, negatives .7 .1: of six pairs (.9>.7) (.9>.1) (.6>.1) (.2>.1) are in order
    found = metrics(binary([1, 0, 1, 0, 1], [0.9, 0.7, 0.6, 0.1, 0.2]), 2)
    assert found["auc"] == pytest.approx(4 / 6)
    assert found["accuracy"] == pytest.approx(3 / 5)  # answered 1 1 1 0 0
    assert found["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["ks"] == pytest.approx(1 - 1 / 2)  # at .2: all positives, one of two negatives
    assert found["brier"] == pytest.approx((0.1**2 + 0.7**2 + 0.4**2 + 0.1**2 + 0.8**2) / 5)
    assert found["nll"] == 1.0


def test_ks_looks_in_both_directions():
    assert metrics(binary([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9]), 2, ["ks"])["ks"] == 1.0


def test_calibration_error_by_hand():
    # bin of .2: mean probability .25, one of two rows positive; bin of .8: mean .85, none of two
    found = metrics(binary([1, 0, 0, 0], [0.24, 0.26, 0.84, 0.86]), 2, ["ece"])
    assert found["ece"] == pytest.approx(0.5 * abs(0.25 - 0.5) + 0.5 * 0.85)


def test_a_probability_of_one_belongs_to_the_last_bin():
    sure = scores([1], np.array([[-800.0, 0.0]]))
    assert metrics(sure, 2, ["ece", "brier"]) == {"ece": 0.0, "brier": 0.0}


def test_ranks_do_not_saturate_where_probabilities_do():
    rows = scores([0, 1], np.array([[-100.0, 0.0], [-200.0, 0.0]]))  # both probabilities are 1.0 in float64
    assert metrics(rows, 2, ["auc"])["auc"] == 1.0


def test_binary_equals_scikit_learn():
    rng = np.random.default_rng(0)
    labels, log_probs = rng.integers(0, 2, 200), rng.normal(-3, 1, (200, 2))
    p = softmax(log_probs)[:, 1]
    found = metrics(scores(labels.tolist(), log_probs), 2)
    assert found["auc"] == pytest.approx(roc_auc_score(labels, p), abs=1e-12)
    assert found["accuracy"] == accuracy_score(labels, p > 0.5)
    assert found["f1"] == pytest.approx(f1_score(labels, p > 0.5), abs=1e-12)
    assert found["brier"] == pytest.approx(brier_score_loss(labels, p), abs=1e-12)


def test_choice_equals_scikit_learn():
    rng = np.random.default_rng(1)
    labels, log_probs = rng.integers(0, 4, 200), rng.normal(-3, 1, (200, 4))
    p = softmax(log_probs)
    nll = -np.log(p[np.arange(200), labels])
    found = metrics(scores(labels.tolist(), log_probs, nll.tolist()), 4)
    assert found["auc"] == pytest.approx(roc_auc_score(labels, p, multi_class="ovr", average="macro"), abs=1e-12)
    assert found["accuracy"] == accuracy_score(labels, p.argmax(1))
    assert found["f1"] == pytest.approx(f1_score(labels, p.argmax(1), average="macro"), abs=1e-12)
    assert found["nll"] == pytest.approx(log_loss(labels, p), abs=1e-12)


def test_macro_auc_leaves_out_words_that_no_row_has():
    rows = scores([0, 1], np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])))
    assert metrics(rows, 3, ["auc"])["auc"] == 1.0


def test_free_text():
    rows = scores([-1, -1], np.zeros((2, 0)), nll=[1.0, 3.0])
    assert metrics(rows, 0) == {"nll": 2.0, "perplexity": pytest.approx(math.exp(2.0))}


def test_perplexity_beyond_float64_is_infinite():
    assert metrics(scores([-1], np.zeros((1, 0)), nll=[1000.0]), 0, ["perplexity"])["perplexity"] == math.inf


@pytest.mark.parametrize("label", [0, 1])
def test_auc_and_ks_of_one_class_are_nan_and_the_rest_is_known(label):
    found = metrics(binary([label] * 3, [0.2, 0.6, 0.7]), 2)
    assert {name for name, value in found.items() if math.isnan(value)} == {"auc", "ks"}


def test_f1_without_positives_is_nan():
    assert math.isnan(metrics(binary([0, 0], [0.1, 0.2]), 2, ["f1"])["f1"])
    assert metrics(binary([0, 0], [0.1, 0.9]), 2, ["f1"])["f1"] == 0.0


def test_macro_auc_of_one_class_is_nan():
    found = metrics(scores([2, 2], np.log(np.full((2, 3), 1 / 3))), 3)
    assert math.isnan(found["auc"])
    assert found["accuracy"] == 0.0


@pytest.mark.parametrize("num_labels", [0, 2, 5])
def test_no_rows_are_nan_under_every_name(num_labels):
    found = metrics(scores([], np.zeros((0, 0))), num_labels)
    assert list(found) == list(metric_names(num_labels))
    assert all(map(math.isnan, found.values()))


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_model_that_diverged_is_nan_under_every_name(bad):
    found = metrics(scores([0, 1], np.array([[-1.0, bad], [-1.0, -2.0]])), 2)
    assert all(map(math.isnan, found.values()))


def test_only_the_names_asked_for_in_their_order():
    assert list(metrics(binary([0, 1], [0.1, 0.9]), 2, ["f1", "auc"])) == ["f1", "auc"]


@pytest.mark.parametrize(("num_labels", "task"), [(0, "text"), (2, "binary"), (3, "choice")])
def test_every_name_is_computed(num_labels, task):
    assert set(all_metric_names(num_labels)) == set(COMPUTE[task])
    assert [name for name in all_metric_names(num_labels) if not METRICS[name].written] == list(
        metric_names(num_labels)
    )


def test_scenarios_know_the_metrics():
    assert get_args(Metric) == tuple(METRICS)


def test_headline_and_direction():
    assert headline(["nll", "accuracy"]) == "accuracy"
    assert headline(["nll", "perplexity"]) == "nll"
    assert headline([]) is None
    assert worse("auc", 0.6) > worse("auc", 0.7)
    assert worse("nll", 0.7) > worse("nll", 0.6)
