"""The runs of a grid: order, sharing, skipping, failing."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path

import jsonschema
import pytest

from fedsim.build import prepare, split
from fedsim.build.grid import Shelf, in_order
from fedsim.build.load import check, load_grid, load_scenario
from fedsim.build.run import run
from fedsim.build.schema import json_schema
from fedsim.core.errors import ScenarioError
from fedsim.core.events import Finished, RoundRow, RunDone, RunElsewhere, RunFailed, Started, Turn
from fedsim.models.vision import ResNetModel
from fedsim.records.lock import acquire, release
from fedsim.view import Story

BASE = """num_rounds: 1
data: {kind: digits}
model: {kind: resnet, depth: 8, width: 4, channels: 1}
lora: {r: 2}
train: {local_steps: 1, batch_size: 4}
evaluate: {max_rows: 20}
partition: {kind: iid, num_banks: 3}
"""
METHODS = "strategy: [{kind: fedavg}, {kind: local}]"
SPLITS = "partition: [{kind: iid, num_banks: 3}, {kind: iid, num_banks: 2}]"


@pytest.fixture
def file(tmp_path: Path):
    """Write a scenario with these lists."""

    def write(vary: str) -> Path:
        path = tmp_path / "small.yaml"
        path.write_text(f"{BASE}vary: {vary}\n")
        return path

    return write


def test_check_names_each_problem_once(file) -> None:
    path = file("{strategy: [{kind: fedavg}, {kind: fedprox, mu: -1}], seed: [1, 2, 3], train.lr: [0.1, fast]}")
    assert [re.sub(r"^.*yaml:", "", str(problem)) for problem in check([path])] == [
        "8:51: strategy.mu: must be >= 0 (got -1)",
        '8:94: train.lr: expected number, got string "fast"',
    ]


def test_one_scenario_is_not_a_grid(file) -> None:
    with pytest.raises(ScenarioError, match="makes 2 runs, but one is needed here"):
        load_scenario(file("{seed: [1, 2]}"))


def test_runs_with_the_same_rows_and_banks_stand_together(file) -> None:
    vary = f"{{{METHODS}, {SPLITS}, seed: [1, 2]}}"
    names = [run.name.replace("strategy=", "").replace("partition=", "") for run in in_order(load_grid(file(vary)))]
    assert names[:4] == ["fedavg,iid-3,seed=1", "local,iid-3,seed=1", "fedavg,iid-2,seed=1", "local,iid-2,seed=1"]
    assert all(name.endswith("seed=2") for name in names[4:])


def test_rows_are_read_once_and_shared_out_once_per_partition(file, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(prepare, "load_corpus", lambda scenario: calls.append("read") or "texts")
    monkeypatch.setattr(prepare, "tokenise", lambda scenario, corpus: prepare.Encoded(corpus, None, "rows"))
    monkeypatch.setattr(split, "divide", lambda scenario, corpus, seen: corpus)
    monkeypatch.setattr(prepare, "share_out", lambda scenario, division, rows: calls.append("share out") or rows.rows)
    shelf = Shelf()
    vary = (
        "{strategy: [{kind: fedavg}, {kind: local}], partition: [{kind: iid, num_banks: 3}, {kind: iid, num_banks: 2}]}"
    )
    for one in in_order(load_grid(file(vary))):
        assert shelf.material(one.scenario) == "rows"
    assert calls == ["read", "share out", "share out"]


def test_a_grid_runs_all_skips_what_has_ended_and_survives_what_fails(file, tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = file("{partition: [{kind: iid, num_banks: 2}, {kind: by_column, column: nix}], seed: [1, 2]}")
    events = list(run(path, out=out, inline=True))
    end = events[-1]
    assert isinstance(end, Finished)
    assert (end.status, end.exit_code) == ("failed", 3)
    assert [type(event) for event in events if isinstance(event, RunDone | RunFailed)].count(RunFailed) == 2
    assert end.summary == json.loads((out / "grid.json").read_text())
    statuses = {entry["name"]: entry["status"] for entry in end.summary["runs"]}
    assert statuses == {
        "partition=iid-2,seed=1": "completed",
        "partition=iid-2,seed=2": "completed",
        "partition=by_column-nix,seed=1": "failed",
        "partition=by_column-nix,seed=2": "failed",
    }

    (out / "partition=iid-2,seed=2" / "summary.json").unlink()  # as if it had been stopped
    again = list(run(file("{partition: [{kind: iid, num_banks: 2}], seed: [1, 2, 3]}"), out=out, inline=True))
    assert [event.skipped for event in again if isinstance(event, Turn)] == [True, False, False]
    assert len([event for event in again if isinstance(event, RoundRow)]) == 4
    assert again[-1].exit_code == 0
    assert again[-1].summary["status"] == "completed"


def test_a_run_that_another_process_is_at_is_left_to_it(file, tmp_path: Path) -> None:
    path, out = file("{seed: [1, 2]}"), tmp_path / "out"
    (out / "seed=1").mkdir(parents=True)
    fence = acquire(out / "seed=1")
    events = list(run(path, out=out, inline=True))
    assert [(type(e), e.name) for e in events if isinstance(e, RunElsewhere | RunDone)] == [
        (RunElsewhere, "seed=1"),
        (RunDone, "seed=2"),
    ]
    assert "is locked by process" in next(e.holder for e in events if isinstance(e, RunElsewhere))
    assert events[-1].exit_code == 0
    assert [entry["status"] for entry in events[-1].summary["runs"]] == ["running", "completed"]
    assert events[-1].summary["status"] == "running"
    release(fence)
    assert list(run(path, out=out, inline=True))[-1].summary["status"] == "completed"


def test_a_run_that_was_stopped_goes_on_from_its_last_round(file, tmp_path: Path) -> None:
    path, out = file("{seed: [1]}"), tmp_path / "out"
    with closing(run(path, ["num_rounds=3"], out, inline=True)) as events:
        next(event for event in events if isinstance(event, RoundRow) and event.round == 2)
    again = list(run(path, ["num_rounds=3"], out, inline=True))
    assert any("Resumed after round 2" in note for e in again if isinstance(e, Started) for note in e.notes)
    alone = list(run(path, ["num_rounds=3"], tmp_path / "alone", inline=True))
    assert again[-1].summary["runs"][0]["metrics"] == alone[-1].summary["runs"][0]["metrics"]


def test_runs_share_one_base_and_leave_no_trace_in_it(file, monkeypatch, tmp_path: Path) -> None:
    loads, load = [], ResNetModel.load
    monkeypatch.setattr(ResNetModel, "load", lambda *given: loads.append(1) or load(*given))
    path = file("{strategy: [{kind: flora}, {kind: fedavg}, {kind: ffa_lora}], lora.r: [2, 3], num_rounds: [2]}")
    end = list(run(path, ["model.width=8"], tmp_path / "grid", inline=True))[-1]
    assert len(loads) == 2, "one per rank"
    alone = ["model.width=8", "num_rounds=2"]
    for rank in (3, 2):
        events = list(run(file("{seed: [0]}"), [*alone, f"lora.r={rank}"], tmp_path / str(rank), inline=True))
        (entry,) = [e for e in end.summary["runs"] if f"fedavg,lora.r={rank}," in e["name"]]
        assert events[-1].summary["runs"][0]["metrics"] == entry["metrics"]


def test_the_view_tells_the_turns() -> None:
    story = Story()
    told = [*story.tell(Turn(1, 2, "seed=1", False)), *story.tell(RunFailed("seed=1", "no rows"))]
    assert told == ["[1/2] seed=1", "failed: no rows\n"]
    assert list(story.tell(Turn(2, 2, "seed=2", True))) == ["[2/2] seed=2: has ended before"]


def test_editors_know_vary() -> None:
    schema = json_schema()["properties"]["vary"]
    for lists in ({"lora.r": [4, 8]}, {"paired": {"train.lr": [0.1], "seed": [1]}}):
        jsonschema.validate(lists, schema)
    for wrong in ({}, {"seed": 1}, {"seed": []}, {"paired": {"seed": 1}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
