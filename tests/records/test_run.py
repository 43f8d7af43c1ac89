"""A run as Python sees it."""

from __future__ import annotations

import math

import pytest

from fedsim.core.errors import CheckpointError
from fedsim.core.events import Finished, RoundRow
from fedsim.records.record import RunRecord
from fedsim.records.run import Run
from tests.streams import stream


@pytest.fixture
def finished(tmp_path) -> Run:
    record = RunRecord(tmp_path / "run")
    record.begin({}, {})
    for event in stream(names=["007", "bank-01"]):
        if isinstance(event, RoundRow):
            record.add_round(event)
        elif isinstance(event, Finished):
            record.finish(event.summary)
    return Run(str(record.folder))


def test_rounds_are_a_table(finished):
    assert finished.rounds["auc"].tolist() == [0.5, 0.625, 0.75]
    assert finished.rounds["oracle.loss"].tolist()[1:] == pytest.approx([0.6, 0.5])
    assert "schema_version" not in finished.rounds


def test_banks_are_a_table_in_which_names_stay_text(finished):
    table = finished.banks
    assert table["bank"].tolist() == ["007", "bank-01"] * 3
    assert table.groupby("bank")["bytes_up"].sum().to_dict() == {"007": 4000, "bank-01": 4000}
    assert all(map(math.isnan, table["f1"]))
    assert table["f1"].dtype == "float64"


def test_metrics_and_summary(finished):
    assert finished.metrics["auc"] == 0.75
    assert finished.summary["banks"]["007"]["f1"] is None


def test_it_prints_as_the_closing_table(finished):
    text = repr(finished)
    assert text.splitlines()[0].split() == ["bank", "train", "AUC", "acc", "F1", "epsilon", "up", "down"]
    assert "completed: 2 rounds" in text


def test_a_run_that_has_not_ended(tmp_path):
    record = RunRecord(tmp_path)
    record.begin({}, {})
    run = Run(tmp_path)
    assert repr(run) == f"Run({str(tmp_path)!r}), not finished"
    assert len(run.rounds) == 0
    with pytest.raises(CheckpointError, match=r"cannot read .*summary.json: No such file.*is it a run directory"):
        _ = run.summary
