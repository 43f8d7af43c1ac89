"""F15, F16, F43, F49: what has changed since a run was stopped: scenario, surroundings, noise key, rows."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from fedsim.build import directory
from fedsim.build.load import load_scenario
from fedsim.build.resume import Resume, refused_changes
from fedsim.build.run import resume, run
from fedsim.core.errors import CheckpointError, DataError, FedsimError
from fedsim.core.events import BaselineDone, Event, Finished, RoundRow, Started
from tests.faults import toys
from tests.faults.test_f06_driver_killed import charged, table

SCENARIO = """
num_rounds: 2
data: {kind: table, path: rows.csv, text: "amount {amount}", label: label, labels: {0: repaid, 1: default},
       test: {fraction: 0.3}}
partition: {kind: iid, num_banks: 2}
model: {kind: embedded, quant_bits: null}
lora: {r: 2, target_modules: [q_proj]}
train: {local_steps: 1, batch_size: 4, optimizer: sgd, lr: 1.0}
privacy: {kind: dp_sgd, noise_multiplier: 1.0, dp_delta: 1e-3}
strategy: {kind: scaffold}
baselines: [zero_shot]
evaluate: {every: 2, metrics: [nll]}
"""
GO_ON = Resume(wanted=True)


def write_rows(folder: Path, last_label: int = 1) -> None:
    rows = [f"{number},{number % 2}" for number in range(39)] + [f"39,{last_label}"]
    (folder / "rows.csv").write_text("\n".join(["amount,label", *rows]) + "\n")


def begin(scenario: Path, folder: Path, changes: Sequence[str] = ()) -> None:
    """A run that is stopped when its first round is over."""
    with closing(run(scenario, changes, folder, inline=True)) as events:
        assert any(isinstance(event, RoundRow) and event.round == 1 for event in events)


def finish(scenario: Path, folder: Path, how: Resume = GO_ON, changes: Sequence[str] = ()) -> list[Event]:
    return list(run(scenario, changes, folder, inline=True, how=how))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``scenario.yaml``, its rows, ``ref``: a whole run, ``begun``: one that was stopped."""
    root = tmp_path_factory.mktemp("place")
    write_rows(root)
    (root / "scenario.yaml").write_text(SCENARIO)
    list(run(root / "scenario.yaml", (), root / "ref", inline=True))
    begin(root / "scenario.yaml", root / "begun")
    return root


@pytest.fixture
def begun(place: Path, tmp_path: Path) -> Path:
    shutil.copytree(place / "begun", tmp_path / "run")
    return tmp_path / "run"


def notes(events: Sequence[Event]) -> str:
    return " ".join(next(event for event in events if isinstance(event, Started)).notes)


def test_it_goes_on_to_the_same_bits_and_tables(place: Path, begun: Path) -> None:
    assert json.loads((begun / "summary.json").read_text())["status"] == "interrupted"
    events = list(resume(begun, inline=True))
    assert "Resumed after round 1 of 2." in notes(events)
    assert toys.hashes(begun) == toys.hashes(place / "ref")
    assert table(begun) == table(place / "ref")
    assert charged(begun) == charged(place / "ref")
    exported = "adapters/global/adapter_model.safetensors"
    assert (begun / exported).read_bytes() == (place / "ref" / exported).read_bytes()


def test_what_has_ended_is_told_and_not_run_again(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "ref", tmp_path / "run")
    before = (tmp_path / "run" / "journal.wal").read_bytes()
    (event,) = resume(tmp_path / "run", inline=True)
    assert isinstance(event, Finished)
    assert event.status == "completed"
    assert (tmp_path / "run" / "journal.wal").read_bytes() == before


def test_more_rounds_are_added_and_a_known_baseline_is_not_run_again(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "ref", tmp_path / "run")
    list(run(place / "scenario.yaml", ["num_rounds=3"], tmp_path / "ref", inline=True))
    events = list(resume(tmp_path / "run", ["num_rounds=3"], inline=True))
    assert toys.hashes(tmp_path / "run") == toys.hashes(tmp_path / "ref")
    assert [event.name for event in events if isinstance(event, BaselineDone)] == ["zero_shot"]
    again = list(resume(tmp_path / "run", ["num_rounds=3", "resources.num_actors=1"], inline=True))
    assert [event.name for event in again if isinstance(event, BaselineDone)] == ["zero_shot"]
    journal = (tmp_path / "run" / "journal.wal").read_text()
    assert journal.count('"kind":"baseline"') == 2, "one for two rounds, one for three"


def test_auto_starts_where_nothing_is(place: Path, tmp_path: Path) -> None:
    finish(place / "scenario.yaml", tmp_path / "new")
    assert toys.hashes(tmp_path / "new") == toys.hashes(place / "ref")


@pytest.mark.parametrize("how", [Resume(), Resume(wanted=True, required=True)])
def test_a_directory_of_another_kind_is_refused(place: Path, tmp_path: Path, begun: Path, how: Resume) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="holds no run" if how.required else "is not empty"):
        finish(place / "scenario.yaml", folder, how)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    if not how.wanted:
        with pytest.raises(CheckpointError, match="holds a run; go on with it: fedsim resume"):
            finish(place / "scenario.yaml", begun, how)


# -------------------------------------------------------------------------------------------------------- F15


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["train.lr=2.0"], "train.lr: 1.0 -> 2.0"),
        (["strategy.kind=fedavg"], "strategy.kind: scaffold -> fedavg"),
        (["lora.r=4", "seed=5"], "seed: 0 -> 5; lora.r: 2 -> 4"),
        (["evaluate.every=1"], "evaluate.every: 2 -> 1"),
    ],
)
def test_another_scenario_is_refused_with_every_difference(
    place: Path, begun: Path, changes: list[str], told: str
) -> None:
    before = (begun / "ledger.wal").read_bytes()
    with pytest.raises(CheckpointError) as caught:
        finish(place / "scenario.yaml", begun, changes=changes)
    assert told in str(caught.value)
    assert caught.value.exit_code == 6
    assert (begun / "ledger.wal").read_bytes() == before


def test_rounds_that_decide_bits_may_not_change(place: Path) -> None:
    then = load_scenario(place / "scenario.yaml").portable()
    assert refused_changes(then, load_scenario(place / "scenario.yaml", ["num_rounds=9"])) == []
    falling = ["train.lr_schedule=cosine", "train.min_lr=0.1"]
    cosine = load_scenario(place / "scenario.yaml", falling)
    nine = load_scenario(place / "scenario.yaml", [*falling, "num_rounds=9"])
    assert refused_changes(cosine.portable(), nine) == [
        "num_rounds: 2 -> 9 (train.lr_schedule is spread over the rounds)"
    ]
    target = ["privacy.noise_multiplier=null", "privacy.dp_epsilon=8.0"]
    then = load_scenario(place / "scenario.yaml", target).portable()
    nine = load_scenario(place / "scenario.yaml", [*target, "num_rounds=9"])
    assert refused_changes(then, nine) == ["num_rounds: 2 -> 9 (the noise is calibrated to the rounds)"]


def test_fewer_rounds_than_there_are_is_refused(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "ref", tmp_path / "run")
    with pytest.raises(CheckpointError, match="holds 2 rounds, more than num_rounds asks for"):
        finish(place / "scenario.yaml", tmp_path / "run", changes=["num_rounds=1"])


def test_control_a_scenario_that_is_not_compared_gives_other_bits(
    place: Path, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "refused_changes", lambda then, scenario: [])
    finish(place / "scenario.yaml", begun, changes=["train.lr=2.0"])
    assert toys.hashes(begun) != toys.hashes(place / "ref")


# -------------------------------------------------------------------------------------------------------- F16


def test_other_surroundings_are_told_and_the_same_bits_not_claimed(
    place: Path, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = directory.surroundings
    monkeypatch.setattr(directory, "surroundings", lambda job: {**true(job), "cpu_capability": "OLD"})
    events = finish(place / "scenario.yaml", begun)
    assert "the same bits are not claimed: cpu_capability " in notes(events)
    assert "-> OLD." in notes(events)
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.summary["bit_identity"] == "not claimed"
    assert "bit_identity" not in json.loads((place / "ref" / "summary.json").read_text())


# -------------------------------------------------------------------------------------------------------- F49


def test_other_rows_are_refused(place: Path, tmp_path: Path, begun: Path) -> None:
    write_rows(tmp_path, last_label=0)
    shutil.copy(place / "scenario.yaml", tmp_path / "scenario.yaml")
    with pytest.raises(DataError, match="the rows or their division among banks are not those") as caught:
        finish(tmp_path / "scenario.yaml", begun)
    assert caught.value.exit_code == 3
    write_rows(tmp_path)  # as they were, elsewhere
    finish(tmp_path / "scenario.yaml", begun)
    assert toys.hashes(begun) == toys.hashes(place / "ref")


# -------------------------------------------------------------------------------------------------------- F43

SECURE = ["privacy.noise=secure"]


def key_file(folder: Path) -> Path:
    path = folder / "key"
    path.touch(mode=0o600)
    path.write_bytes(os.urandom(32))
    return path


def test_without_the_noise_key_new_noise_is_charged_again(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    begin(place / "scenario.yaml", folder, SECURE)
    paid = charged(folder)
    with pytest.raises(CheckpointError, match="--new-noise draws new noise and charges such a round again"):
        finish(place / "scenario.yaml", folder, changes=SECURE)
    finish(place / "scenario.yaml", folder, Resume(wanted=True, new_noise=True), SECURE)
    assert charged(folder) == {bank: [*rounds, 2] for bank, rounds in paid.items()}


def test_with_the_key_the_run_goes_on_to_the_same_bits(place: Path, tmp_path: Path) -> None:
    secure = [*SECURE, f"privacy.noise_key={key_file(tmp_path)}"]
    list(run(place / "scenario.yaml", secure, tmp_path / "ref", inline=True))
    begin(place / "scenario.yaml", tmp_path / "cut", secure)
    finish(place / "scenario.yaml", tmp_path / "cut", changes=secure)
    assert toys.hashes(tmp_path / "cut") == toys.hashes(tmp_path / "ref")
    key_file(tmp_path)
    begin(place / "scenario.yaml", tmp_path / "other", secure)
    key_file(tmp_path)
    with pytest.raises(FedsimError, match="the noise key of this run, or what it ran on, is not at hand"):
        finish(place / "scenario.yaml", tmp_path / "other", changes=secure)
