"""The run directory: every file, line by line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from fedsim.core.document import read
from fedsim.core.errors import CheckpointError
from fedsim.core.events import Finished, RoundRow
from fedsim.records.environment import environment
from fedsim.records.record import RunRecord, adapter_places, run_folder
from tests.streams import stream


@pytest.fixture
def folder(tmp_path) -> Path:
    """A run directory with a whole run in it."""
    record = RunRecord(tmp_path / "runs" / "a")
    record.begin({"name": "a", "seed": 3}, {"seed": 3})
    for event in stream():
        if isinstance(event, RoundRow):
            record.add_round(event)
        elif isinstance(event, Finished):
            record.finish(event.summary)
    record.add_adapter(lambda folder: (folder / "adapter_config.json").write_text("{}"))
    return record.folder


def test_the_split_is_one_json_object(tmp_path: Path) -> None:
    RunRecord(tmp_path).add_split({"gini": 0.5, "label_tv": None, "banks": [{"name": "a"}]})
    assert json.loads((tmp_path / "split.json").read_text()) == {
        "gini": 0.5,
        "label_tv": None,
        "banks": [{"name": "a"}],
    }


def test_files_of_a_run(folder):
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == [
        "adapters/global/adapter_config.json",
        "banks.jsonl",
        "environment.json",
        "rounds.jsonl",
        "scenario.yaml",
        "summary.json",
    ]


def test_one_line_per_round_and_per_bank_with_a_schema_version(folder):
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    banks = [json.loads(line) for line in (folder / "banks.jsonl").read_text().splitlines()]
    assert [line["round"] for line in rounds] == [0, 1, 2]
    assert [(line["round"], line["bank"]) for line in banks] == [(r, f"bank-0{b}") for r in range(3) for b in range(2)]
    assert {line["schema_version"] for line in (*rounds, *banks)} == {1}
    assert rounds[1] == {
        "schema_version": 1,
        "round": 1,
        "num_rounds": 2,
        "metrics": {"auc": 0.625, "accuracy": 0.8, "f1": 0.25, "nll": 0.6},
        "epsilon": 0.5,
        "bytes_up": 4000,
        "bytes_down": 6000,
        "seconds": 3.0,
        "oracle": {"loss": 0.6},
        "failed": {},
    }
    assert banks[-1]["metrics"]["f1"] is None


def test_rounds_can_be_read_while_the_run_goes_on(tmp_path):
    record = RunRecord(tmp_path)
    record.begin({}, {})
    rows = [event for event in stream() if isinstance(event, RoundRow)]
    for number, row in enumerate(rows, start=1):
        record.add_round(row)
        assert len((tmp_path / "rounds.jsonl").read_text().splitlines()) == number


@pytest.mark.parametrize("private", [True, False])
def test_no_file_holds_nan_or_infinity(tmp_path, private):
    record = RunRecord(tmp_path)
    record.begin({}, {})
    for event in stream(private):
        if isinstance(event, RoundRow):
            record.add_round(event)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    for name in ("rounds.jsonl", "banks.jsonl"):
        for line in (tmp_path / name).read_text().splitlines():
            json.loads(line, parse_constant=refuse)


def test_the_scenario_is_read_back_as_it_was(tmp_path):
    shared = ["q_proj", "v_proj"]
    scenario = {
        "name": "a",
        "lr": 1e-5,
        "big": 1e22,
        "none": None,
        "no": "no",
        "text": "term {months}: yes, 5 # not a comment",
        "number as text": "010",
        "nested": [{"kind": "topk", "of": shared}, {"kind": "affine", "of": shared}],
        "flag": False,
        "umlaut": "Köln",
        "lines": "first\nsecond\n",
        "long": "word " * 60 + "end",
    }
    RunRecord(tmp_path).begin(scenario, {})
    document = read(tmp_path / "scenario.yaml")
    assert document.data == scenario
    assert list(document.data) == list(scenario)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(CheckpointError, match="cannot make run directory"):
        RunRecord(tmp_path / "run")


def test_bank_names_become_folder_names():
    names = ["Crédit Agricole", "../../outside", "a/b", "A.B", "a b", "银行", "", "global", "x" * 99]
    assert list(adapter_places(names).values()) == [
        "adapters/credit-agricole",
        "adapters/outside",
        "adapters/a-b",
        "adapters/a-b-2",
        "adapters/a-b-3",
        "adapters/bank",
        "adapters/bank-2",
        "adapters/global-2",
        f"adapters/{'x' * 60}",
    ]


def test_a_number_behind_a_name_is_no_other_banks_name():
    assert adapter_places(["a", "a-2", "A"]) == {"a": "adapters/a", "a-2": "adapters/a-2", "A": "adapters/a-3"}


def test_a_banks_adapter_stands_beside_the_global_one(tmp_path):
    record = RunRecord(tmp_path)
    for place in ("adapters/global", "adapters/nord"):
        record.add_adapter(lambda folder: (folder / "x").write_text(""), place)
    assert sorted(path.parent.name for path in tmp_path.rglob("x")) == ["global", "nord"]


def test_run_folders_are_named_by_name_time_and_digest():
    now = datetime(2025, 3, 4, 17, 6, 7, tzinfo=timezone(timedelta(hours=1)))
    assert run_folder("sba", "0123456789abcdef", now) == Path("results/runs/sba-20250304T160607Z-01234567")
    assert run_folder("sba", "0123456789abcdef", now.astimezone(UTC), Path("out")).parent == Path("out")


def test_environment_says_what_made_the_run(tmp_path, monkeypatch):
    found = environment(seed=17)
    assert found["seed"] == 17
    assert set(found["packages"]) == {"fedsim", "torch", "ray", "transformers", "peft", "bitsandbytes", "opacus"}
    assert found["cpu_count"] >= 1
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment(seed=17)["git_commit"] is None
