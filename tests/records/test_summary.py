"""The object that other programs read."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fedsim.core.events import Finished
from fedsim.records.summary import Summary
from tests.streams import round_row, started, stream, summary_of


def test_the_fixed_keys():
    found = summary_of(started(), [round_row(r) for r in range(3)], "completed", 9.0)
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
                "epsilon_pld": 0.8,
                "epsilon_pld_method": "pld",
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
                "epsilon_pld": 0.8,
                "epsilon_pld_method": "pld",
                "delta": 1e-5,
                "spend": {"sample_rate": 0.02, "noise_multiplier": 1.0, "num_steps": 40},
                "bytes_up": 4000,
                "bytes_down": 6000,
            },
        },
        "epsilon": 1.0,
        "epsilon_pld": 0.8,
        "epsilon_pld_method": "pld",
        "bytes_up": 8000,
        "bytes_down": 12000,
        "seconds": 9.0,
    }


def test_nothing_is_promised_without_a_mechanism_not_even_before_training():
    for rounds in (0, 1, 3):
        found = summary_of(
            started(private=False), [round_row(r, private=False) for r in range(rounds)], "completed", 1.0
        )
        assert (found["epsilon"], found["epsilon_pld"], found["epsilon_pld_method"]) == (None, None, None)
        for bank in found["banks"].values():
            assert (bank["epsilon"], bank["delta"], bank["epsilon_pld"]) == (None, None, None)
            assert bank["spend"] == {"sample_rate": 0.02, "noise_multiplier": 0.0, "num_steps": 20 * max(0, rounds - 1)}


def test_nothing_is_promised_by_a_mechanism_without_noise():
    begun = started()
    silent = replace(begun, banks=tuple(replace(bank, noise_multiplier=0.0) for bank in begun.banks))
    found = summary_of(silent, [round_row(0)], "completed", 1.0)
    assert (found["epsilon"], found["banks"]["bank-00"]["delta"]) == (None, None)


def test_the_run_is_as_private_as_its_worst_bank():
    last = round_row(2)
    low, high = (replace(bank, epsilon=epsilon) for bank, epsilon in zip(last.banks, (0.5, 2.0), strict=True))
    summary = Summary(started())
    summary.add(replace(last, banks=(low, high)))
    found = summary.result("completed", 1.0, {"bank-00": (0.5, "rdp"), "bank-01": (1.5, "pld")})
    assert (found["epsilon"], found["epsilon_pld"], found["epsilon_pld_method"]) == (2.0, 1.5, "pld")
    summary.add(replace(last, banks=(low, replace(high, epsilon=math.inf))))
    found = summary.result("completed", 1.0, {"bank-00": (0.5, "rdp"), "bank-01": (math.inf, "rdp")})
    assert (found["epsilon"], found["epsilon_pld"], found["epsilon_pld_method"]) == (None, None, None)


def test_a_run_without_tight_values():
    summary = Summary(started())
    summary.add(round_row(1))
    found = summary.result("interrupted", 1.0)
    assert (found["status"], found["rounds"], found["epsilon"], found["epsilon_pld"]) == ("interrupted", 1, 0.5, None)


def test_a_budget_that_buys_no_round_has_spent_nothing():
    found = summary_of(started(), [round_row(0)], "budget_exhausted", 1.0)
    assert (found["rounds"], found["epsilon"], found["bytes_up"]) == (0, 0.0, 0)
    assert found["banks"]["bank-00"]["spend"]["num_steps"] == 0


def test_metrics_are_those_of_the_last_evaluation():
    last = round_row(2)
    unseen = replace(last, metrics={}, banks=tuple(replace(bank, metrics={}) for bank in last.banks))
    found = summary_of(started(), [round_row(0), round_row(1), unseen], "completed", 1.0)
    assert found["metrics"]["auc"] == 0.625
    assert found["banks"]["bank-00"]["auc"] == 0.675


def test_the_stream_of_these_tests_ends_with_it():
    (finished,) = [event for event in stream() if isinstance(event, Finished)]
    assert finished.summary["rounds"] == 2
