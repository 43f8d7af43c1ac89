"""F26: the node's memory runs out. F29: object store and disk are full. F32: calls between Ray's processes are lost.
F46: five hundred rounds. The programs are in ``tests.faults.sessions``.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest
from ray import exceptions

from fedsim.core.errors import ResourceError
from fedsim.engine import slots
from fedsim.engine.calls import Call
from fedsim.engine.classify import classify
from fedsim.engine.failures import Cause
from fedsim.engine.slots import Slots, State
from tests.faults.apart import told_by

ROOT = Path(__file__).resolve().parents[2]
CALL = Call("round 1, bank 'east'", "train", ())


def bare(number: int) -> Slots:
    """Slots without actors, of which nothing starts."""
    made = Slots.__new__(Slots)
    made._slots = [slots._Slot(State.IDLE, None, None, None, 0.0) for _ in range(number)]
    made._window = number
    return made


def test_f29_half_as_many_calls_are_in_flight_once_and_then_the_run_ends(monkeypatch) -> None:
    monkeypatch.setattr(slots, "kill", lambda handle: None)
    made = bare(4)
    full = classify(exceptions.OutOfDiskError(), CALL.what)

    def fail() -> Cause:
        slot = made._slots[0]
        slot.state, slot.call = State.BUSY, CALL
        return made._failed(slot, full, alive=True).cause

    first = fail()
    assert (first.passing, made._window) == (True, 2)
    second = fail()
    assert (second.ends_run, made._window) == (True, 2)
    assert isinstance(second.as_error("here"), ResourceError)
    assert "make room where Ray spills" in str(second.as_error("here"))


def test_f29_control_no_more_calls_than_the_window_are_sent() -> None:
    made, sent = bare(4), []

    class Handle:
        @property
        def train(self) -> Handle:
            return self

        def options(self, num_returns: int) -> Handle:
            return self

        def remote(self) -> int:
            sent.append(1)
            return len(sent)

    for slot in made._slots:
        slot.handle = Handle()
    made._window = 2
    queue = deque([CALL] * 4)
    made._dispatch(queue)
    assert (len(sent), len(queue)) == (2, 2)
    made._window = 4
    made._dispatch(queue)
    assert len(sent) == 4


def test_f32_a_process_whose_calls_are_lost_while_it_loads_is_tried_again_for_two_minutes(monkeypatch) -> None:
    made, now = bare(2), [100.0]
    made._deaths_loading, made._lost_since = 0, None
    monkeypatch.setattr(slots.time, "monotonic", lambda: now[0])
    lost, died = (Cause(name, name) for name in ("unreachable", "died"))
    assert [made._hopeless(died) for _ in range(5)] == [False] * 4 + [True]
    assert not any(made._hopeless(lost) for _ in range(50))
    now[0] += slots.PLACEMENT_S + 1
    assert made._hopeless(lost)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_f26_a_process_that_ate_the_memory_is_replaced(tmp_path) -> None:
    found = told_by("tests.faults.sessions", "f26", tmp_path)
    assert ["north", 2, 1, "out_of_memory", "retry"] in found["failed"]
    assert (found["same"], found["same_ledger"], found["error"]) == (True, True, None)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_f29_a_full_disk_ends_the_run_with_its_own_code_and_it_can_go_on(tmp_path) -> None:
    """What a bank keeps is found to be nowhere when the round is committed: it is not."""
    found = told_by("tests.faults.sessions", "f29", tmp_path)
    code, message = found["error"]
    assert (code, found["same"]) == (4, False)
    assert "disk full" in message
    assert found["committed"] == 2, "rounds 0 and 1"
    resumed = found["resumed"]
    assert (resumed["same"], resumed["same_ledger"], resumed["error"]) == (True, True, None)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_f32_lost_calls_move_no_bit(tmp_path) -> None:
    found = told_by("tests.faults.sessions", "f32", tmp_path)
    assert {cause for _, _, _, cause, _ in found["failed"]} == {"unreachable"}, "control: some were lost"
    assert (found["same"], found["same_ledger"], found["error"]) == (True, True, None)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_f46_five_hundred_rounds_leave_nothing_behind(tmp_path, capsys) -> None:
    found = told_by("tests.faults.sessions", "f46", tmp_path)
    with capsys.disabled():
        print(f"\n{found}")
    assert found["driver_kb_per_round"] < 50
    assert found["actor_kb_per_round"] < 50
    assert found["fds"][1] <= found["fds"][0] + 2
    assert found["shared_mb"][1] <= found["shared_mb"][0] + 64
    assert found["open_rounds"] == 2
    assert found["zombies"] == 0
