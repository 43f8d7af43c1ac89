"""Metrics on numbers that can be checked by hand, and beside scikit-learn's."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss, roc_auc_score

from fedsim.core.metrics import METRICS, Metric, all_metric_names, headline, metric_names, worse
from fedsim.train.metrics import COMPUTE, f1_cut, metrics
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


def test_the_threshold_of_f1_by_hand():
    # answering yes from .4 on: 2 of 3 right, both found, F1 4/5; from .6 on: 1 of 2 right, F1 2/4; from .7 on: 0
    train = binary([0, 1, 1, 0, 0], [0.7, 0.6, 0.4, 0.3, 0.2])
    halfway = (math.log(0.4 / 0.6) + math.log(0.3 / 0.7)) / 2
    assert f1_cut(train) == pytest.approx(halfway)
    test = replace(binary([1, 0, 1, 0], [0.45, 0.38, 0.3, 0.1]), cut=f1_cut(train))
    found = metrics(test, 2, ["f1", "accuracy"])
    assert found["f1"] == pytest.approx(2 * 1 / (2 + 2))  # answered 1 1 0 0; at one half it would be NaN or 0
    assert found["accuracy"] == pytest.approx(2 / 4)  # all answered no


def test_rows_of_one_score_are_answered_alike():
    # of two rows at .6 one is positive: 1 of 2; with the positive at .4, 2 of 3 right and both found
    assert f1_cut(binary([0, 1, 1, 0], [0.6, 0.6, 0.4, 0.1])) < math.log(0.4 / 0.6)
    assert f1_cut(binary([1, 1], [0.3, 0.3])) == -math.inf, "every row is positive: every answer is yes"


def test_of_thresholds_that_are_as_good_the_highest():
    cut = f1_cut(binary([1, 0, 0, 1], [0.9, 0.8, 0.7, 0.6]))  # 1 of 1 (F1 2/3) or all four (F1 4/6)
    assert cut == pytest.approx((math.log(9) + math.log(4)) / 2)


def test_without_a_positive_training_row_the_likelier_word_is_the_answer():
    assert f1_cut(binary([0, 0], [0.1, 0.9])) == 0.0
    assert f1_cut(scores([1, 0], np.array([[0.0, math.nan], [0.0, -1.0]]))) == 0.0, "and where the model diverged"


def test_the_threshold_is_the_best_of_all_on_its_own_rows():
    rng = np.random.default_rng(3)
    labels, p = rng.integers(0, 2, 60), rng.random(60).round(1).clip(0.05, 0.95)
    rows = binary(labels.tolist(), p.tolist())
    best = max(f1_score(labels, p >= q) for q in np.unique(p))
    assert metrics(replace(rows, cut=f1_cut(rows)), 2, ["f1"])["f1"] == pytest.approx(best)


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
