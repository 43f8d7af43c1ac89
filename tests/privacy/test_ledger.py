"""Accounts of banks over a run: additive, append-only, and stopped in time."""

import json
import math

import pytest

from fedsim.core.errors import CheckpointError
from fedsim.core.messages import Spend
from fedsim.privacy.accounting import pld_epsilon, rdp_epsilon, steps_within
from fedsim.privacy.ledger import Ledger

ROUND = Spend(1.0, 0.02, 20)


def test_rounds_add_up_to_one_long_run() -> None:
    ledger = Ledger(1e-5)
    for number in range(10):
        ledger.charge(number, "a", ROUND)
    assert ledger.spent("a") == [Spend(1.0, 0.02, 200)]
    assert ledger.epsilon("a") == rdp_epsilon([Spend(1.0, 0.02, 200)], 1e-5)
    assert ledger.tight_epsilon("a") == pld_epsilon([Spend(1.0, 0.02, 200)], 1e-5)
    assert ledger.tight_epsilon("a").epsilon < ledger.epsilon("a")


def test_the_named_accountant_reports() -> None:
    ledger = Ledger(1e-5, "pld")
    ledger.charge(0, "a", ROUND)
    assert ledger.epsilon("a") == pld_epsilon([ROUND], 1e-5).epsilon < rdp_epsilon([ROUND], 1e-5)


def test_banks_have_accounts_of_their_own_and_the_worst_counts() -> None:
    ledger = Ledger(1e-5)
    assert ledger.worst() == 0
    ledger.charge(0, "a", ROUND)
    ledger.charge(0, "b", Spend(1.0, 0.2, 20))
    ledger.charge(1, "b", Spend(2.0, 0.2, 20))
    assert ledger.spent("b") == [Spend(1.0, 0.2, 20), Spend(2.0, 0.2, 20)]
    assert ledger.epsilon("a") == rdp_epsilon([ROUND], 1e-5)
    assert ledger.worst() == ledger.epsilon("b") > ledger.epsilon("a")
    assert ledger.epsilon("never trained") == 0
    assert ledger.tight_epsilon("never trained").epsilon == 0


def test_a_bank_without_a_mechanism_is_not_private_for_good() -> None:
    ledger = Ledger()
    ledger.charge(0, "a", None)
    ledger.charge(1, "a", ROUND)
    assert ledger.epsilon("a") == ledger.tight_epsilon("a").epsilon == ledger.worst() == math.inf
    assert ledger.would_exceed("a", ROUND, 1e9)
    assert not ledger.would_exceed("a", None, math.inf)


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_the_cap_stops_before_it_is_exceeded(accountant) -> None:
    cap, ledger = 1.5, Ledger(1e-5, accountant)
    promised = ledger.rounds_within("a", ROUND, cap, 30)
    rounds = 0
    while not ledger.would_exceed("a", ROUND, cap):
        ledger.charge(rounds, "a", ROUND)
        rounds += 1
        assert ledger.epsilon("a") <= cap
    assert rounds == promised == steps_within(cap, 1e-5, Spend(1.0, 0.02, 600), accountant) // 20
    assert 0 < rounds < 30
    assert ledger.rounds_within("a", ROUND, cap, 30) == 0
    ledger.charge(rounds, "a", ROUND)
    assert ledger.epsilon("a") > cap


def test_rounds_within_knows_its_limits() -> None:
    ledger = Ledger(1e-5)
    assert ledger.rounds_within("a", ROUND, 1e9, 7) == 7
    assert ledger.rounds_within("a", ROUND, math.inf, 7) == 7
    assert ledger.rounds_within("a", ROUND, 1e-3, 7) == 0
    assert ledger.rounds_within("a", None, 8.0, 7) == 0


def test_a_replayed_ledger_is_the_same_ledger() -> None:
    ledger = Ledger(1e-6, "pld")
    ledger.charge(0, "a", Spend(1.1, 0.1 / 3, 20))
    ledger.charge(0, "b", None)
    ledger.charge(1, "a", Spend(1.1, 0.1 / 3, 20))
    rows = [json.loads(json.dumps(row)) for row in ledger.entries()]
    again = Ledger.replay(rows, 1e-6, "pld")
    assert again.entries() == ledger.entries()
    assert again.spent("a") == ledger.spent("a") == [Spend(1.1, 0.1 / 3, 40)]
    assert [again.epsilon(bank) for bank in "abc"] == [ledger.epsilon(bank) for bank in "abc"]


def test_entries_are_copies() -> None:
    ledger = Ledger()
    ledger.charge(0, "a", ROUND)
    ledger.entries()[0]["num_steps"] = 0
    assert ledger.entries()[0]["num_steps"] == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": -20}, r"row 2: num_steps: .*got -20"),
        ({"noise_multiplier": "much"}, r"row 2: noise_multiplier: .*got 'much'"),
        ({"sample_rate": 2.0}, r"row 2: sample_rate: .*got 2\.0"),
        ({"epsilon": 1.0}, r"row 2: epsilon: "),
    ],
)
def test_a_row_that_cannot_be_right_is_refused(change, message) -> None:
    ledger = Ledger()
    ledger.charge(0, "a", ROUND)
    rows = ledger.entries() * 2
    rows[1] = {**rows[1], **change}
    with pytest.raises(CheckpointError, match=message):
        Ledger.replay(rows, 1e-5, "rdp")
