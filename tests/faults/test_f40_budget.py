"""F40, F41, F42: the budget holds, and the ledger loses nothing, whatever a crash or a hand does to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim.core.errors import BudgetError
from fedsim.core.events import BankDone, Event, Finished, Started
from fedsim.engine.driver import Driver
from fedsim.engine.pool import InlinePool
from fedsim.engine.resources import Actors
from fedsim.privacy.ledger import Ledger
from tests.engine import fakes
from tests.faults import toys

CAP = 0.31  # one round of a bank


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ref")
    toys.run(toys.plan(folder))
    return folder


def cut(folder: Path, answers: int, **how: object) -> None:
    """A run that is killed after so many banks have answered."""
    plan = toys.plan(folder, **how)
    for event in Driver(plan, InlinePool(fakes.make_client(plan)(), Actors())).run():
        answers -= isinstance(event, BankDone)
        if answers == 0:
            return


def end(events: list[Event]) -> Finished:
    finished = events[-1]
    assert isinstance(finished, Finished)
    return finished


def worst(folder: Path) -> int:
    return max(map(len, toys.charged(folder).values()))


# --------------------------------------------------------------------------------------------------- F40, F41


def test_a_round_is_charged_before_it_is_sent_and_once_when_it_is_sent_again(tmp_path: Path, reference: Path) -> None:
    cut(tmp_path, answers=1)
    paid = toys.charged(tmp_path)
    assert sorted(map(len, paid.values())) == [0, 1, 1], "also the bank that had not answered"
    cut(tmp_path, answers=1)
    assert toys.charged(tmp_path) == paid
    toys.run(toys.plan(tmp_path))
    assert toys.charged(tmp_path) == toys.charged(reference)


def test_where_bits_do_not_repeat_every_attempt_is_charged(tmp_path: Path, reference: Path) -> None:
    for _ in range(3):
        cut(tmp_path, answers=1, repeatable=False)
    toys.run(toys.plan(tmp_path, repeatable=False))
    extra = {bank: len(rounds) - len(toys.charged(reference)[bank]) for bank, rounds in toys.charged(tmp_path).items()}
    assert sorted(extra.values()) == [0, 3, 3]


@pytest.mark.parametrize("answers", [1, 2])
def test_a_crash_in_the_last_round_that_the_budget_buys_costs_nothing(tmp_path: Path, answers: int) -> None:
    toys.run(toys.plan(tmp_path / "ref", cap=CAP))
    cut(tmp_path / "cut", answers, cap=CAP)
    finished = end(toys.run(toys.plan(tmp_path / "cut", cap=CAP)))
    assert toys.hashes(tmp_path / "cut") == toys.hashes(tmp_path / "ref")
    assert finished.status == "budget_exhausted"
    assert float(str(finished.summary["epsilon"])) <= CAP


def test_what_a_crash_has_cost_the_budget_does_not_buy(tmp_path: Path) -> None:
    for _ in range(2):
        cut(tmp_path, answers=1, cap=CAP, repeatable=False)
    finished = end(toys.run(toys.plan(tmp_path, cap=CAP, repeatable=False)))
    assert finished.status == "budget_exhausted"
    assert finished.summary["rounds"] == 0
    assert float(str(finished.summary["epsilon"])) <= CAP


def test_control_a_ledger_that_is_charged_afterwards_hides_what_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "intend", lambda self, charge: None)
    cut(tmp_path, answers=1)
    monkeypatch.undo()
    assert worst(tmp_path) == 0


# -------------------------------------------------------------------------------------------------------- F42


def lines(folder: Path) -> list[bytes]:
    return (folder / "ledger.wal").read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("keep", [1, 30, -1])
def test_a_torn_line_is_dropped_and_charged_to_every_bank(tmp_path: Path, reference: Path, keep: int) -> None:
    cut(tmp_path, answers=3)  # in the second round
    *whole, last = lines(tmp_path)
    (tmp_path / "ledger.wal").write_bytes(b"".join(whole) + last[:keep])
    events = toys.run(toys.plan(tmp_path))
    assert isinstance(events[0], Started)
    assert any("last line was cut short" in note for note in events[0].notes)
    extra = {bank: len(rounds) - len(toys.charged(reference)[bank]) for bank, rounds in toys.charged(tmp_path).items()}
    assert extra == dict.fromkeys(fakes.BANKS, 1)
    assert toys.hashes(tmp_path) == toys.hashes(reference)


def test_a_torn_line_that_a_committed_round_knows_is_charged_too(tmp_path: Path, reference: Path) -> None:
    toys.run(toys.plan(tmp_path))
    *whole, last = lines(tmp_path)
    (tmp_path / "ledger.wal").write_bytes(b"".join(whole) + last[:30])
    for _ in range(2):
        toys.run(toys.plan(tmp_path))
    assert worst(tmp_path) == worst(reference) + 1


def edited(rows: list[bytes]) -> list[bytes]:
    return [rows[0], rows[1].replace(b'"round":1', b'"round":7'), *rows[2:]]


def rewritten(rows: list[bytes]) -> list[bytes]:
    """As whoever knows the format would: with a checksum that is right."""
    import zlib

    record = json.loads(rows[0][18:])
    first = next(iter(record["banks"].values()))
    first["num_steps"] = 0
    body = json.dumps(record, separators=(",", ":")).encode()
    return [b"%08x %08x %s\n" % (len(body), zlib.crc32(body), body), *rows[1:]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (edited, "line 2 is damaged or missing, and others follow it"),
        (lambda rows: [rows[0], *rows[2:]], "line 2 is damaged or missing"),
        (lambda rows: rows[:-2], r"has 4 of at least 6 lines"),
        (lambda rows: [*rows[:-2], rows[-2][:30]], r"has 4 of at least 6 lines"),
        (lambda rows: [], r"has 0 of at least 6 lines"),
        (rewritten, "is not the ledger of the committed round"),
    ],
)
def test_a_ledger_that_was_changed_is_refused(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], told: str
) -> None:
    toys.run(toys.plan(tmp_path))
    (tmp_path / "ledger.wal").write_bytes(b"".join(change(lines(tmp_path))))
    with pytest.raises(BudgetError, match=told) as caught:
        toys.run(toys.plan(tmp_path))
    assert caught.value.exit_code == 5


def test_a_round_that_is_rolled_back_stays_in_the_ledger(tmp_path: Path) -> None:
    toys.run(toys.plan(tmp_path))
    before = lines(tmp_path)
    for path in (tmp_path / "rounds/000003").iterdir():
        path.unlink()
    toys.run(toys.plan(tmp_path))
    assert lines(tmp_path)[: len(before)] == before
    assert len(lines(tmp_path)) == len(before) + 2
