"""The closing table and the words in it."""

from __future__ import annotations

import math

import pytest

from fedsim.core.events import Finished
from fedsim.records.table import MAX_BANKS, audited, closing_table, overall
from fedsim.records.text import human_bytes, human_epsilon, human_metric, human_seconds, shorten
from tests.streams import stream


def summary(**changes):
    return {**next(event.summary for event in stream() if isinstance(event, Finished)), **changes}


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (12_345, "12.3 kB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (1_500_000_000, "1.50 GB"),
        (5_000_000_000_000_000, "5000 TB"),
    ],
)
def test_bytes(count, text):
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1m 00s"),
        (3599.4, "59m 59s"),
        (7500, "2h 05m"),
        (273_600, "3d 04h"),
    ],
)
def test_seconds(seconds, text):
    assert human_seconds(seconds) == text


def test_metrics_and_epsilon():
    assert [human_metric(value) for value in (0.5, 12.3456, 123.456, math.nan, None)] == [
        "0.500",
        "12.346",
        "123.5",
        "-",
        "-",
    ]
    assert [human_epsilon(value) for value in (0.0, 0.0123, 8.0, 123.4, math.inf, None)] == [
        "0",
        "0.0123",
        "8.00",
        "123",
        "-",
        "-",
    ]


def test_long_names_are_cut():
    assert shorten("bank-00", 7) == "bank-00"
    assert shorten("First National Bank", 8) == "First.."
    assert shorten("a\nb\x1b[2J", 10) == "a?b?[2J"


def test_the_worst_bank_is_the_one_with_the_lowest_auc():
    assert "worst: bank-01" in closing_table(summary()).text()


def test_for_free_text_the_worst_bank_is_the_one_with_the_highest_nll():
    banks = summary()["banks"]
    banks = {
        name: {k: v for k, v in bank.items() if k not in ("auc", "accuracy", "f1")} for name, bank in banks.items()
    }
    banks["bank-00"] |= {"nll": 2.5}
    banks["bank-01"] |= {"nll": 1.5}
    table = closing_table(summary(metrics={"nll": 2.0, "perplexity": 7.389}, banks=banks))
    assert table.header[2:4] == ("NLL", "PPL")
    assert table.sections[1][1][:4] == ("worst: bank-00", "1000", "2.500", "-")


def test_unknown_values_are_dashes_and_never_the_worst():
    banks = summary()["banks"]
    for unknown in (math.nan, None):
        banks["bank-01"]["auc"] = unknown
        table = closing_table(summary(banks=banks))
        assert table.sections[0][1][2] == "-"
        assert table.sections[1][1][0] == "worst: bank-00"


def test_without_scores_there_is_no_worst_bank():
    banks = {name: {**bank, "auc": None} for name, bank in summary()["banks"].items()}
    assert len(closing_table(summary(banks=banks)).sections[1]) == 1
    bare = {name: {k: v for k, v in bank.items() if k not in ("auc", "accuracy", "f1")} for name, bank in banks.items()}
    table = closing_table(summary(metrics={}, banks=bare))
    assert table.header == ("bank", "train", "epsilon", "up", "down")


def test_there_is_no_epsilon_column_where_nothing_is_promised():
    assert closing_table(summary(epsilon=None)).header == ("bank", "train", "AUC", "acc", "F1", "up", "down")


def test_of_many_banks_the_worst_are_listed_in_bank_order():
    bank = summary()["banks"]["bank-00"]
    banks = {f"bank-{n:03d}": {**bank, "auc": n / 1000} for n in range(100)}
    table = closing_table(summary(banks=banks))
    assert [row[0] for row in table.sections[0]] == list(banks)[:MAX_BANKS]
    assert table.sections[1][0][1] == "100000"
    assert table.notes[0] == "60 better banks are not listed; all are in summary.json"


def test_models_of_their_own_are_averaged_over_everyones_rows():
    banks = [{"auc": 0.9, "everyone_auc": 0.6}, {"auc": 0.8, "everyone_auc": 0.8}, {"auc": 0.8, "everyone_auc": None}]
    assert overall({"auc": 0.5}, banks) == {"auc": pytest.approx(0.7)}
    assert overall({"auc": 0.5}, [{"auc": 0.9}]) == {"auc": 0.5}


def test_a_run_of_one_round_and_another_status():
    table = closing_table(summary(status="budget_exhausted", rounds=1, seconds=75.0))
    assert table.notes[0] == "budget exhausted: 1 round in 1m 15s; epsilon at delta 1e-05"


def test_an_audit_is_told_and_shouts_when_it_refutes_the_accountant():
    audit = {"correct": 28, "guesses": 30, "canaries": 120, "epsilon_lower": 1.1239, "confidence": 0.95}
    audit |= {"auc": 0.611, "auc_se": 0.0484}
    (line,) = audited(audit, None)
    told = "audit: 28 of 30 guesses about 120 canaries right: epsilon is at least 1.12 (95% confidence)"
    assert line == f"{told}; AUC 0.61, by chance 0.5 +- 0.05"
    assert audited(audit, 2.0) == (line,)
    assert audited(audit, 1.0) == (f"{line}: MORE than the accountant's 1.00",)
