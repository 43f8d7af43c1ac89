"""The object that other programs read."""

from __future__ import annotations

import math

import pytest

from fedsim.core.events import Finished
from fedsim.records.summary import summary
from tests.streams import round_row, started, stream


def test_the_fixed_keys():
    found = summary(started(), [round_row(r) for r in range(3)], "completed", delta=1e-5, seconds=9.0)
    assert found == {
        "run_dir": "results/runs/quickstart",
        "status": "completed",
        "rounds": 2,
        "metrics": {"auc": 0.75, "accuracy": 0.8, "f1": 0.25, "nll": 0.6},
        "banks": {
            "bank-00": {
                "auc": 0.8,
                "accuracy": 0.8,
                "f1": pytest.approx(math.nan, nan_ok=True),
                "num_train": 1000,
                "epsilon": 1.0,
                "delta": 1e-5,
                "spend": {"sample_rate": 0.02, "noise_multiplier": 1.0, "num_steps": 40},
                "bytes_up": 4000,
                "bytes_down": 6000,
            },
            "bank-01": {
                "auc": pytest.approx(0.7),
                "accuracy": 0.8,
                "f1": pytest.approx(math.nan, nan_ok=True),
                "num_train": 500,
                "epsilon": 1.0,
                "delta": 1e-5,
                "spend": {"sample_rate": 0.02, "noise_multiplier": 1.0, "num_steps": 40},
                "bytes_up": 4000,
                "bytes_down": 6000,
            },
        },
        "epsilon": 1.0,
        "bytes_up": 8000,
        "bytes_down": 12000,
        "seconds": 9.0,
    }


def test_nothing_is_promised_without_noise_not_even_before_training():
    for rounds in (0, 1, 3):
        rows = [round_row(r, private=False) for r in range(rounds)]
        found = summary(started(private=False), rows, "completed", delta=None, seconds=1.0)
        assert found["epsilon"] is None
        assert {(bank["epsilon"], bank["delta"]) for bank in found["banks"].values()} == {(None, None)}


def test_a_budget_that_buys_no_round_has_spent_nothing():
    found = summary(started(), [round_row(0)], "budget_exhausted", delta=1e-5, seconds=1.0)
    assert (found["rounds"], found["epsilon"], found["bytes_up"]) == (0, 0.0, 0)
    assert found["banks"]["bank-00"]["spend"]["num_steps"] == 0


def test_metrics_are_those_of_the_last_evaluation():
    from dataclasses import replace

    last = round_row(2)
    unseen = replace(last, metrics={}, banks=tuple(replace(bank, metrics={}) for bank in last.banks))
    found = summary(started(), [round_row(0), round_row(1), unseen], "completed", delta=1e-5, seconds=1.0)
    assert found["metrics"]["auc"] == 0.625
    assert found["banks"]["bank-00"]["auc"] == 0.675


def test_the_stream_of_these_tests_ends_with_it():
    (finished,) = [event for event in stream() if isinstance(event, Finished)]
    assert finished.summary["rounds"] == 2
