"""F17: NaN in an adapter. F19: other tensors than were asked for. F20: an update a million times too long."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedsim.codecs import pipeline
from fedsim.core.errors import QuorumError
from fedsim.core.events import Served
from fedsim.core.sections import Failures
from fedsim.engine import transport, uplink
from fedsim.engine.transport import pack, unpack
from fedsim.engine.validation import Refused, bounded
from fedsim.strategies.base import Outcome
from fedsim.train.values import Trained
from tests.engine import fakes
from tests.faults.runs import Run, plan

SKIP = Failures(policy="skip")
BOUND = Failures(policy="skip", max_norm=1000.0)
CLIP = Failures(max_norm=10.0, too_long="clip")

WRONG = {
    "nan@update": ("not_finite", "3 of 6 values of 'q.A' in the update are not finite"),
    "shape@update": ("mismatch", "adapter mismatch: q.B: got (4, 1) want (4, 2)"),
    "missing@update": ("mismatch", "adapter mismatch: q.B: missing"),
    "extra@update": ("mismatch", "adapter mismatch: q.C: nobody asked for it"),
    "huge@update": ("too_large", "above failures.max_norm 1000"),
}


def is_finite(run: Run) -> bool:
    (served,) = (event for event in run.events if isinstance(event, Served))
    return all(bool(torch.isfinite(tensor).all()) for tensor in served.adapter.tensors.values())


@pytest.mark.parametrize("action", WRONG)
@pytest.mark.parametrize("banks_per_actor", [1, 3])
def test_the_update_is_refused_the_bank_named_and_charged_and_its_cohort_unharmed(
    tmp_path, action, banks_per_actor
) -> None:
    fakes.plant(tmp_path, 0, "north", action)
    run = Run.inline(plan(BOUND), tmp_path, banks_per_actor)
    cause, message = WRONG[action]
    (failed,) = run.failed
    assert (failed.bank, failed.round, failed.cause, failed.action) == ("north", 1, cause, "skip")
    assert message in failed.message
    assert run.rows[1].failed == {"north": cause}
    assert run.charged("north") == [1, 2]
    assert is_finite(run)
    fakes.plant(tmp_path, 0, "north", "bug", times=2)  # the first for its cohort
    assert run.hash == Run.inline(plan(BOUND), tmp_path).hash, "as if it had not answered"


@pytest.mark.parametrize("action", WRONG)
def test_where_nobody_may_be_missing_it_ends_the_run(tmp_path, action) -> None:
    fakes.plant(tmp_path, 0, "north", action)
    run = Run.inline(plan(Failures(max_norm=1000.0)), tmp_path)
    assert isinstance(run.error, QuorumError)
    assert str(run.error).startswith("round 1, bank 'north', attempt 1: ")
    assert run.hash == "none"


def test_a_repeated_offender_is_left_out(tmp_path) -> None:
    for round_ in (0, 1):
        fakes.plant(tmp_path, round_, "north", "nan@update")
    run = Run.inline(plan(SKIP, num_rounds=4), tmp_path)
    missing = [row.failed for row in run.rows[1:]]
    assert missing == [{"north": "not_finite"}] * 2 + [{"north": "quarantined"}] * 2
    assert run.charged("north") == [1, 2], "it has not trained since"
    assert [bank.bytes_down for bank in run.rows[4].banks][1] == 0
    assert is_finite(run)


def test_what_a_refused_bank_keeps_is_what_it_kept(tmp_path) -> None:
    fakes.plant(tmp_path, 0, "north", "huge@update")
    run = Run.inline(plan(BOUND), tmp_path)
    assert [bank.oracle.get("rounds") for bank in run.rows[2].banks] == [2.0, 1.0, 2.0]


def test_control_without_the_guards_the_aggregate_is_ruined(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(transport, "require_finite", lambda tensors: None)
    fakes.plant(tmp_path, 0, "north", "nan@update")
    run = Run.inline(plan(SKIP), tmp_path)
    assert not run.failed
    assert not is_finite(run)


def test_f20_or_it_is_clipped_to_the_bound_and_told(tmp_path, reference) -> None:
    """The hostile bank's pull has a length that the scenario chose; the bank stays, and is charged as ever."""
    fakes.plant(tmp_path, 0, "north", "huge@update")
    run = Run.inline(plan(CLIP), tmp_path)
    (told,) = run.failed
    assert (told.bank, told.cause, told.action) == ("north", "too_large", "clip")
    assert run.error is None
    assert run.rows[1].failed == {}
    assert run.ledger == reference.ledger
    fakes.plant(tmp_path, 0, "north", "huge@update")
    assert run.hash == Run.inline(plan(CLIP), tmp_path).hash
    assert is_finite(run)
    loose = Run.inline(plan(Failures(max_norm=1e9, too_long="clip")), tmp_path)
    assert (loose.hash, loose.failed) == (reference.hash, []), "what is short enough is not touched"


def test_f20_a_clipped_update_has_the_norm_of_the_bound() -> None:
    update = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    clipped, cause = bounded(update, Failures(max_norm=1.0, too_long="clip"))
    torch.testing.assert_close(clipped, {"a": torch.tensor([0.6, 0.0]), "b": torch.tensor([[0.8]])})
    assert cause is not None
    assert cause.message == "the update's norm is 5, above failures.max_norm 1"
    with pytest.raises(Refused, match=r"above failures\.max_norm 1"):
        bounded(update, Failures(max_norm=1.0))
    assert bounded(update, Failures(max_norm=5.0)) == (update, None)


def test_f20_a_bank_that_is_clipped_again_and_again_is_not_left_out(tmp_path) -> None:
    for round_ in (0, 1, 2):
        fakes.plant(tmp_path, round_, "north", "huge@update")
    clip = Failures(policy="skip", max_norm=10.0, too_long="clip")
    run = Run.inline(plan(clip, num_rounds=4), tmp_path)
    assert [row.failed for row in run.rows] == [{}] * 5
    assert len(run.failed) == 3


def test_control_without_the_guards_a_wrong_shape_is_stretched_to_fit_and_a_long_update_wins(
    tmp_path, monkeypatch, reference
) -> None:
    monkeypatch.setattr(uplink, "require_tensors", lambda *_: None)
    monkeypatch.setattr(uplink, "bounded", lambda delta, _: (delta, None))
    fakes.plant(tmp_path, 0, "north", "huge@update")
    run = Run.inline(plan(BOUND), tmp_path)
    assert not run.failed
    assert run.hash != reference.hash
    fakes.plant(tmp_path, 0, "north", "shape@update")
    run = Run.inline(plan(BOUND), tmp_path)
    assert not run.failed
    assert run.hash != reference.hash, "one column was added to both"


@pytest.mark.parametrize("body", [b"", b"\x00" * 7, b"\x00" * 4096], ids=["empty", "torn", "too long"])
@pytest.mark.parametrize("codec", [[], [("affine", {})], [("topk", {"density": 0.5})]], ids=str)
def test_a_message_that_cannot_be_decoded_is_refused(codec, body) -> None:
    adapter, chain = fakes.MakeToy()().new_adapter(1), pipeline(codec)
    trained = Trained("east", Outcome(dict(adapter.tensors), {}, {}), num_examples=1, num_steps=1, spend=None)
    reply, _ = pack(trained, chain, {}, seed=1)
    unpack(reply, chain)  # control
    with pytest.raises(Refused, match="cannot be decoded"):
        unpack(replace(reply, delta=replace(reply.delta, body=body)), chain)
