"""F48: a bank's work raises. The others go on; class and bank are on one line, the traceback is in the run's files."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest

from fedsim.core.errors import FedsimError, ModelError
from fedsim.core.events import Event, Failed
from fedsim.core.sections import Failures
from fedsim.engine.actor import ClientActor
from fedsim.records.failures import add_failure, replay_command
from fedsim.view import Pane, Story
from tests.engine import fakes
from tests.faults.runs import Run, plan

KINDS = {
    "bug": "ValueError: a bug in a plug-in",
    "exit": "SystemExit: 3",
    "unpicklable": "Unpicklable: 1 is not 2",
}
SKIP = Failures(policy="skip")


@pytest.mark.parametrize("kind", KINDS)
def test_the_bank_is_named_and_the_others_answer(tmp_path, kind) -> None:
    fakes.plant(tmp_path, 0, "north", kind, times=2)  # once in its cohort, once alone
    run = Run.inline(plan(SKIP), tmp_path, banks_per_actor=3)
    assert [(one.bank, one.action) for one in run.failed] == [
        *((bank, "alone") for bank in fakes.BANKS),
        ("north", "skip"),
    ]
    last = run.failed[-1]
    assert (last.cause, last.message) == ("error", KINDS[kind])
    assert "in strike" in last.detail, "the actor's traceback"
    assert [bank.participated for bank in run.rows[1].banks] == [True, False, True]
    assert run.charged("east") == run.charged("north") == [1, 2]


@pytest.mark.ray
def test_the_same_from_another_process(on_ray, ray_faults, tmp_path) -> None:
    fakes.plant(ray_faults, 0, "north", "unpicklable")
    run = on_ray(SKIP)
    (failed,) = run.failed
    assert (failed.message, failed.action) == (KINDS["unpicklable"], "skip")
    assert "in strike" in failed.detail
    fakes.plant(tmp_path, 0, "north", "unpicklable")
    assert run.hash == Run.inline(plan(SKIP), tmp_path).hash


def test_under_the_default_policy_the_run_ends_and_says_whose_fault_it_is(tmp_path) -> None:
    fakes.plant(tmp_path, 0, "north", "bug", times=2)
    run = Run.inline(plan(), tmp_path, banks_per_actor=3)
    assert type(run.error) is FedsimError
    assert str(run.error).startswith("round 1, bank 'north' (seed ")
    assert (run.hash, run.ledger) == ("none", {bank: [1] for bank in fakes.BANKS})


def test_what_is_everybody_s_fault_skips_nobody(tmp_path) -> None:
    fakes.plant(tmp_path, 0, "north", "model")
    run = Run.inline(plan(SKIP), tmp_path)
    assert isinstance(run.error, ModelError)


def test_control_a_cohort_that_is_not_taken_apart_loses_the_innocent(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("fedsim.engine.pool.decide", lambda *_: "skip")
    fakes.plant(tmp_path, 0, "north", "bug", times=2)
    run = Run.inline(plan(SKIP), tmp_path, banks_per_actor=3)
    assert run.error is not None
    assert "0 of 3 banks answered" in str(run.error)


def failures(run: Run) -> Iterator[Event]:
    return (event for event in run.events if isinstance(event, Failed))


def test_one_line_on_the_terminal_and_everything_in_the_file(tmp_path) -> None:
    faults, folder = tmp_path / "faults", tmp_path / "a run"
    faults.mkdir()
    folder.mkdir()
    fakes.plant(faults, 0, "north", "bug", times=2)
    run, story, shown = Run.inline(plan(SKIP), faults, banks_per_actor=3), Story(), io.StringIO()
    story.run_dir = str(folder)
    for event in failures(run):
        add_failure(folder, event)
        for line in story.tell(event):
            Pane(shown).line(line)
    first, last = shown.getvalue().splitlines()
    assert first.startswith("round 1, bank 'east' and 2 more of its cohort, attempt 1: error: ValueError: a bug")
    assert last.startswith("round 1, bank 'north', attempt 2: error: ValueError: a bug in a plug-in; failures.jsonl")
    assert f"replay: {replay_command(str(folder))}" in last
    assert f"run '{folder}/scenario.yaml' --inline" in last, "quoted for a shell"
    assert last.endswith(": going on without the bank")
    rows = [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]
    assert [row["bank"] for row in rows] == [*fakes.BANKS, "north"]
    assert "Traceback (most recent call last)" in rows[-1]["detail"]


def test_ctrl_c_is_nobody_s_failure(tmp_path, monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ClientActor, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Run.inline(plan(SKIP), tmp_path)
