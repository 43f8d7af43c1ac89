"""Accounts of banks over a run: additive, append-only, and stopped in time."""

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.core.errors import BudgetError
from fedsim.core.messages import Spend
from fedsim.privacy.accounting import pld_epsilon, rdp_epsilon, steps_within
from fedsim.privacy.ledger import Charge, Ledger

ROUND = Spend(1.0, 0.02, 20)


def charge(ledger: Ledger, round_: int, bank: str, spend: Spend | None) -> None:
    """One bank's round that came to its end."""
    ledger.intend(Charge(round_, f"inputs of {bank}", {bank: spend}))
    ledger.commit(round_, {bank: f"output {round_} {bank}"})


def test_rounds_add_up_to_one_long_run() -> None:
    ledger = Ledger(1e-5)
    for number in range(10):
        charge(ledger, number, "a", ROUND)
    assert ledger.spent("a") == [Spend(1.0, 0.02, 200)]
    assert ledger.epsilon("a") == rdp_epsilon([Spend(1.0, 0.02, 200)], 1e-5)
    assert ledger.tight_epsilon("a") == pld_epsilon([Spend(1.0, 0.02, 200)], 1e-5)
    assert ledger.tight_epsilon("a").epsilon < ledger.epsilon("a")


def test_the_named_accountant_reports() -> None:
    ledger = Ledger(1e-5, "pld")
    charge(ledger, 0, "a", ROUND)
    assert ledger.epsilon("a") == pld_epsilon([ROUND], 1e-5).epsilon < rdp_epsilon([ROUND], 1e-5)


def test_banks_have_accounts_of_their_own_and_the_worst_counts() -> None:
    ledger = Ledger(1e-5)
    assert ledger.worst() == 0
    charge(ledger, 0, "a", ROUND)
    charge(ledger, 0, "b", Spend(1.0, 0.2, 20))
    charge(ledger, 1, "b", Spend(2.0, 0.2, 20))
    assert ledger.spent("b") == [Spend(1.0, 0.2, 20), Spend(2.0, 0.2, 20)]
    assert ledger.epsilon("a") == rdp_epsilon([ROUND], 1e-5)
    assert ledger.worst() == ledger.epsilon("b") > ledger.epsilon("a")
    assert ledger.epsilon("never trained") == 0
    assert ledger.tight_epsilon("never trained").epsilon == 0


def test_a_bank_without_a_mechanism_is_not_private_for_good() -> None:
    ledger = Ledger()
    charge(ledger, 0, "a", None)
    charge(ledger, 1, "a", ROUND)
    assert ledger.epsilon("a") == ledger.tight_epsilon("a").epsilon == ledger.worst() == math.inf
    assert ledger.would_exceed("a", ROUND, 1e9)
    assert not ledger.would_exceed("a", None, math.inf)


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_the_cap_stops_before_it_is_exceeded(accountant) -> None:
    cap, ledger = 1.5, Ledger(1e-5, accountant)
    promised = ledger.rounds_within("a", ROUND, cap, 30)
    rounds = 0
    while not ledger.would_exceed("a", ROUND, cap):
        charge(ledger, rounds, "a", ROUND)
        rounds += 1
        assert ledger.epsilon("a") <= cap
    assert rounds == promised == steps_within(cap, 1e-5, Spend(1.0, 0.02, 600), accountant) // 20
    assert 0 < rounds < 30
    assert ledger.rounds_within("a", ROUND, cap, 30) == 0
    charge(ledger, rounds, "a", ROUND)
    assert ledger.epsilon("a") > cap


def test_rounds_within_knows_its_limits() -> None:
    ledger = Ledger(1e-5)
    assert ledger.rounds_within("a", ROUND, 1e9, 7) == 7
    assert ledger.rounds_within("a", ROUND, math.inf, 7) == 7
    assert ledger.rounds_within("a", ROUND, 1e-3, 7) == 0
    assert ledger.rounds_within("a", None, 8.0, 7) == 0


class Paper:
    """A log in memory."""

    def __init__(self, records: list[dict[str, Any]] | None = None, torn: bool = False) -> None:
        self.records, self.torn = records or [], torn

    def append(self, record: Mapping[str, Any]) -> None:
        self.records.append(json.loads(json.dumps(record)))

    def mend(self, *instead: Mapping[str, Any]) -> None:
        self.torn = False
        for record in instead:
            self.append(record)


def test_a_ledger_goes_on_from_its_log() -> None:
    paper = Paper()
    ledger = Ledger(1e-6, "pld", paper)
    charge(ledger, 0, "a", Spend(1.1, 0.1 / 3, 20))
    charge(ledger, 0, "b", None)
    charge(ledger, 1, "a", Spend(1.1, 0.1 / 3, 20, "fixed"))
    again = Ledger(1e-6, "pld", paper)
    assert again.spent("a") == ledger.spent("a") == [Spend(1.1, 0.1 / 3, 20, "fixed"), Spend(1.1, 0.1 / 3, 20)]
    assert [again.epsilon(bank) for bank in "abc"] == [ledger.epsilon(bank) for bank in "abc"]


def test_the_log_names_the_bound_and_the_attempt() -> None:
    paper = Paper()
    Ledger(1e-5, log=paper).intend(Charge(3, "x", {"a": ROUND}, bounds={"a": 0.5}))
    assert paper.records == [
        {
            "kind": "intent",
            "round": 3,
            "attempt": 1,
            "inputs": "x",
            "repeatable": True,
            "banks": {
                "a": {
                    "noise_multiplier": 1.0,
                    "sample_rate": 0.02,
                    "num_steps": 20,
                    "sampling": "poisson",
                    "noise": "gaussian",
                }
            },
            "bounds": {"a": 0.5},
        }
    ]


# ---------------------------------------------------------------------------------------------------- attempts

STEPS = ROUND.num_steps


def tried(*attempts: tuple[str, str | None], repeatable: bool = True) -> int:
    """How many rounds bank a is charged for attempts at one round, as (inputs, output or None)."""
    ledger = Ledger(1e-5)
    for inputs, output in attempts:
        ledger.intend(Charge(0, inputs, {"a": ROUND}, repeatable))
        if output is not None:
            ledger.commit(0, {"a": output})
    total = sum(spend.num_steps for spend in ledger.spent("a"))
    assert total % STEPS == 0
    return total // STEPS


@pytest.mark.parametrize(
    ("attempts", "repeatable", "secure"),
    [
        ([("x", None)], 1, 1),
        ([("x", None), ("x", None)], 1, 2),
        ([("x", None), ("x", "1")], 1, 2),  # a crash between intent and commit, and the replay
        ([("x", "1"), ("x", "1")], 1, 1),  # a round that was rolled back and made again
        ([("x", "1"), ("x", None), ("x", "1")], 1, 2),
        ([("x", "1"), ("x", "2")], 2, 2),  # not repeatable after all
        ([("x", None), ("x", "1"), ("x", "2")], 3, 3),
        ([("x", "1"), ("y", "1")], 2, 2),  # other inputs: the same output is a coincidence
        ([("x", None), ("y", "1")], 2, 2),
    ],
)
def test_attempts_count_once_only_if_they_were_the_same_release(attempts, repeatable, secure) -> None:
    assert tried(*attempts) == repeatable
    assert tried(*attempts, repeatable=False) == secure


def test_what_was_paid_for_is_free_to_try_again() -> None:
    ledger, spend = Ledger(1e-5), Spend(1.0, 0.02, 20)
    cap = rdp_epsilon([spend], 1e-5)
    ledger.intend(Charge(0, "x", {"a": spend}))
    assert ledger.allows(Charge(0, "x", {"a": spend}), cap)
    assert not ledger.allows(Charge(0, "y", {"a": spend}), cap)
    assert not ledger.allows(Charge(0, "x", {"a": spend}, repeatable=False), cap)
    assert not ledger.allows(Charge(1, "x", {"a": spend}), cap)


def test_a_torn_line_is_one_attempt_of_every_bank_and_charged_once() -> None:
    paper = Paper(torn=True)
    ledger = Ledger(1e-5, log=paper)
    assert ledger.mend({"a": ROUND, "b": ROUND})
    assert [ledger.spent(bank) for bank in "ab"] == [[ROUND], [ROUND]]
    assert not Ledger(1e-5, log=paper).mend({"a": ROUND})
    assert Ledger(1e-5, log=paper).spent("a") == [ROUND]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"round": -1}, r"line 1: intent.round: "),
        ({"banks": {"a": {"noise_multiplier": "much"}}}, r"line 1: intent.banks.a.noise_multiplier: "),
        ({"banks": {"a": {"noise_multiplier": 1.0, "sample_rate": 2.0, "num_steps": 1}}}, r"sample_rate"),
        ({"epsilon": 1.0}, r"line 1: intent.epsilon: "),
        ({"kind": "commit", "attempt": 2}, "line 1"),
    ],
)
def test_a_line_that_cannot_be_right_is_refused(change, message) -> None:
    paper = Paper()
    Ledger(1e-5, log=paper).intend(Charge(0, "x", {"a": ROUND}))
    paper.records[0] |= change
    with pytest.raises(BudgetError, match=message):
        Ledger(1e-5, "rdp", paper)


def test_a_commit_without_its_intent_is_refused() -> None:
    paper = Paper([{"kind": "commit", "round": 0, "attempt": 1, "outputs": {"a": "1"}}])
    with pytest.raises(BudgetError, match="round 0, attempt 1, is missing"):
        Ledger(1e-5, log=paper)


# ----------------------------------------------------------------------------------------- never under-reported


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),  # round
            st.sampled_from("xyz"),  # what the inputs are
            st.sampled_from(["sent", "lost before it was sent", "answered", "answered otherwise"]),
        ),
        max_size=12,
    ),
    st.booleans(),
)
def test_no_schedule_of_crashes_hides_a_release(schedule, repeatable) -> None:
    """Whatever is killed when: at least as many releases are charged as different ones left the bank."""
    paper, released = Paper(), set[tuple[int, str, str]]()
    for number, (round_, inputs, fate) in enumerate(schedule):
        ledger = Ledger(1e-5, log=paper)  # every attempt is a new process that reads the log
        ledger.intend(Charge(round_, inputs, {"a": ROUND}, repeatable))
        output = inputs if repeatable else f"{inputs} {number if fate == 'answered otherwise' else 0}"
        if fate != "lost before it was sent":
            released.add((round_, inputs, output))
        if fate.startswith("answered"):
            ledger.commit(round_, {"a": output})
    charged = sum(spend.num_steps for spend in Ledger(1e-5, log=paper).spent("a")) // STEPS
    assert charged >= len(released)
    assert Ledger(1e-5, log=paper).epsilon("a") >= rdp_epsilon([ROUND] * len(released), 1e-5)


def test_a_person_of_two_banks_pays_at_both_and_the_cap_is_theirs() -> None:
    ledger = Ledger(1e-5, together=[("a", "b")])
    other = Spend(1.0, 0.03, 20)
    charge(ledger, 0, "a", ROUND)
    assert ledger.worst() == ledger.epsilon("a")
    charge(ledger, 0, "b", other)
    charge(ledger, 0, "c", other)
    both = rdp_epsilon([ROUND, other], 1e-5)
    assert ledger.worst() == pytest.approx(both)
    assert both > ledger.epsilon("b")
    assert ledger.tight_together() == pld_epsilon([ROUND, other], 1e-5)
    more = Charge(1, "inputs", {"a": ROUND, "b": other})
    after = rdp_epsilon([ROUND, ROUND, other, other], 1e-5)
    assert ledger.allows(more, after + 1e-9)
    assert not ledger.allows(more, after - 1e-3)
    assert Ledger(1e-5).tight_together() is None
