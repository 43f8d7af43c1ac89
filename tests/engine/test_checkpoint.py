"""What a run carries from round to round survives its way through files, and a killed run comes to the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedsim.codecs import pipeline
from fedsim.core.adapter import AdapterState
from fedsim.core.errors import CheckpointError
from fedsim.core.events import BankDone, Event, Finished, RoundRow, Served, Started
from fedsim.core.messages import BankInfo, ServerState
from fedsim.engine.checkpoint import files_of, pack_tensors, require_fits, saved_from, unpack_tensors
from fedsim.engine.driver import Driver
from fedsim.engine.plan import Plan
from fedsim.engine.pool import InlinePool
from fedsim.engine.resources import Actors
from fedsim.engine.transport import Downlink, Link
from tests.engine import fakes
from tests.faults import toys

EDGES = torch.tensor([0.0, -0.0, float("nan"), float("inf"), 1e-45, 3.0000002])


def adapter(level: float, rank: int = 2) -> AdapterState:
    return AdapterState({"q.B": torch.full((4, rank), level), "q.A": torch.full((rank, 3), -level)}, rank, 2.0 / rank)


def state() -> ServerState:
    banks = (BankInfo("Crédit/Agricole", 10, 2, 2.0), BankInfo("b", 20, 1, 4.0))
    slots = {"privacy/bound": torch.tensor([0.1], dtype=torch.float64), "m/q.A": EDGES, "flag": torch.tensor(True)}
    return ServerState(7, adapter(0.5), banks, (adapter(1.0, 3), adapter(2.0, 1)), slots)


def test_a_state_comes_back_as_it_was() -> None:
    saved = saved_from(dict(files_of(state(), {}, [(1, pack_tensors({"own": EDGES}))])))
    assert saved.state.round == 7
    assert saved.state.banks == state().banks
    for left, right in zip((saved.state.adapter, *saved.state.frozen), (state().adapter, *state().frozen), strict=True):
        assert (left.rank, left.scaling, list(left.tensors)) == (right.rank, right.scaling, list(right.tensors))
        assert fakes.same(left.tensors, right.tensors)
    assert saved.state.slots["privacy/bound"].dtype == torch.float64
    assert saved.state.slots["m/q.A"].numpy().tobytes() == EDGES.numpy().tobytes()
    assert list(saved.kept) == ["b"]
    assert unpack_tensors(saved.kept["b"])["own"].numpy().tobytes() == EDGES.numpy().tobytes()


def test_views_and_shared_tensors_are_written_whole() -> None:
    base = torch.arange(12.0).view(3, 4)
    back = unpack_tensors(pack_tensors({"t": base.T, "row": base[1], "again": base}))
    assert torch.equal(back["t"], base.T)
    assert torch.equal(back["row"], base[1])


def test_equal_states_give_equal_files_whatever_they_share() -> None:
    tensor = torch.ones(3)
    shared = {bank: Link({"x": b"1"}, {"x": tensor}, {}) for bank in "ba"}
    apart = {bank: Link({"x": b"1"}, {"x": torch.ones(3)}, {}) for bank in "ab"}
    assert dict(files_of(state(), shared, [])) == dict(files_of(state(), apart, []))


def test_a_downlink_goes_on_with_what_banks_received() -> None:
    """Bytes, values and the residual of a lossy download are those of a server that was never stopped."""
    codec = pipeline([("topk", {"density": 0.3, "error_feedback": True})])
    plan, whole = fakes.plan(download=codec), Downlink(codec, 7)
    first = plan.strategy.init(fakes.MakeToy()().new_adapter(7), plan.infos, 7)
    second = replace(first, round=1, adapter=first.adapter.with_tensors({"q.B": torch.ones(4, 2)}))
    jobs = [[plan.strategy.configure(at, bank, 7) for bank in fakes.BANKS] for at in (first, second)]
    whole.send(jobs[0])
    again = Downlink(codec, 7)
    again.links.update(saved_from(dict(files_of(first, whole.links, []))).links)
    left, right = whole.send(jobs[1]), again.send(jobs[1])
    assert [delivery.num_bytes for delivery in left] == [delivery.num_bytes for delivery in right]
    for one, other in zip(left, right, strict=True):
        assert fakes.same(one.parcel.adapter.tensors, other.parcel.adapter.tensors)
    assert len({id(delivery.parcel) for delivery in right}) == 1, "banks that share a download still share it"
    assert dict(files_of(first, whole.links, [])) == dict(files_of(first, again.links, []))


def other_tensor(name: str, *shape: int) -> ServerState:
    return replace(state(), adapter=state().adapter.with_tensors({name: torch.ones(shape)}))


def other_slot(tensor: torch.Tensor) -> ServerState:
    return replace(state(), slots={**state().slots, "m/q.A": tensor})


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (replace(state(), banks=state().banks[:1]), "of other banks"),
        (replace(state(), banks=(replace(state().banks[0], num_examples=9), state().banks[1])), "numbers of rows"),
        (other_tensor("k.A", 2, 3), "the model has no tensor k.A"),
        (replace(state(), adapter=AdapterState({"q.A": torch.ones(2, 3)}, 2, 1.0)), "it has no tensor q.B"),
        (other_tensor("q.A", 2, 4), r"q.A has shape \(2, 4\) at rank 2, the model's has \(2, 3\)"),
        (other_tensor("q.B", 4, 1), r"q.B has shape \(4, 1\) at rank 2, the model's has \(4, 2\)"),
        (replace(state(), adapter=adapter(float("nan"))), "q.A holds values that are not finite"),
        (replace(state(), slots={}), r"slot privacy/bound is missing, the method's has \(1,\) and torch.float64"),
        (other_slot(torch.ones(2)), r"slot m/q.A has shape \(2,\) and type torch.float32, the method's has \(6,\)"),
        (other_slot(EDGES.double()), r"slot m/q.A has shape \(6,\) and type torch.float64"),
    ],
)
def test_a_state_of_another_run_is_told(other: ServerState, told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        require_fits(other, state())


def test_ranks_may_change_within_a_run() -> None:
    pruned = replace(state(), adapter=adapter(0.1, rank=1), banks=(replace(state().banks[0], rank=1), state().banks[1]))
    require_fits(pruned, state())


# ------------------------------------------------------------------------------------------------------------ resume


def events_until(plan: Plan, stop: type[Event] | None, times: int = 1) -> list[Event]:
    """Events of a driver that is given up after so many of one type."""
    seen: list[Event] = []
    for event in Driver(plan, InlinePool(fakes.make_client(plan)(), Actors())).run():
        seen.append(event)
        times -= type(event) is stop
        if times == 0:
            break
    return seen


def stable(rows: Sequence[Event]) -> Iterator[RoundRow]:
    return (replace(row, seconds=0.0) for row in rows if isinstance(row, RoundRow))


def plan_in(folder: Path, **changed: object) -> Plan:
    codec = pipeline([("topk", {"density": 0.5, "error_feedback": True})])
    plan = fakes.plan(fakes.Personal(), num_rounds=4, client_fraction=0.7, upload=codec)
    return replace(plan, store=toys.store(folder), **changed)


@pytest.mark.parametrize(("stop", "times"), [(Started, 1), (RoundRow, 1), (BankDone, 3), (RoundRow, 3), (Served, 1)])
def test_a_driver_goes_on_where_another_stopped(tmp_path: Path, stop: type[Event], times: int) -> None:
    reference = events_until(plan_in(tmp_path / "ref"), None)
    events_until(plan_in(tmp_path / "cut"), stop, times)
    resumed = events_until(plan_in(tmp_path / "cut"), None)
    assert list(stable(resumed)) == list(stable(reference))
    assert toys.hashes(tmp_path / "cut") == toys.hashes(tmp_path / "ref")
    last, wanted = resumed[-1], reference[-1]
    assert isinstance(last, Finished)
    assert isinstance(wanted, Finished)
    assert {**last.summary, "seconds": 0} == {**wanted.summary, "seconds": 0}


def test_what_a_bank_keeps_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above would see it if kept were lost."""
    events_until(plan_in(tmp_path / "ref"), None)
    monkeypatch.setattr(InlinePool, "load", lambda self, data: None)
    events_until(plan_in(tmp_path / "cut"), RoundRow, 3)
    events_until(plan_in(tmp_path / "cut"), None)
    assert toys.hashes(tmp_path / "cut") != toys.hashes(tmp_path / "ref")


def test_seconds_add_up_over_both_lives(tmp_path: Path) -> None:
    rows = [event for event in events_until(plan_in(tmp_path), RoundRow, 3) if isinstance(event, RoundRow)]
    last = events_until(plan_in(tmp_path), None)[-1]
    assert isinstance(last, Finished)
    assert float(str(last.summary["seconds"])) >= sum(row.seconds for row in rows)


def test_only_the_newest_two_rounds_stay(tmp_path: Path) -> None:
    events_until(plan_in(tmp_path), None)
    assert sorted(path.name for path in (tmp_path / "rounds").iterdir()) == ["000003", "000004"]
