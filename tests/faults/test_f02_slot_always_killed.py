"""F2: a bank whose process dies at every attempt. F39: no bank answers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fedsim.core.sections import Failures
from fedsim.privacy import ledger
from fedsim.privacy.ledger import Attempt
from tests.engine import fakes
from tests.faults.runs import Run, plan

SKIP = Failures(policy="skip", retries=1, quorum=0.6)


def assert_without_north(run: Run) -> None:
    assert run.error is None
    assert [row.failed for row in run.rows] == [{}, {"north": "died"}, {}]
    assert [bank.participated for bank in run.rows[1].banks] == [True, False, True]
    assert run.charged("north") == [1, 2], "what it computed may have left it"
    assert run.charged("east") == run.charged("west") == [1, 2]


@pytest.mark.ray
def test_the_round_goes_on_without_it_and_it_is_charged(on_ray, ray_faults, reference) -> None:
    fakes.plant(ray_faults, 0, "north", "kill", times=2)
    run = on_ray(SKIP)
    assert [(one.bank, one.attempt, one.action) for one in run.failed] == [("north", 1, "retry"), ("north", 2, "skip")]
    assert_without_north(run)
    assert run.hash != reference.hash
    assert run.rows[1].bytes_down == reference.rows[1].bytes_down, "it was sent its download"


def test_control_a_lost_bank_that_is_not_charged_is_noticed(tmp_path, monkeypatch) -> None:
    def answered(attempts: Sequence[Attempt], inputs: str, bank: str) -> int:
        return sum(bank in outputs for _, outputs in attempts)

    monkeypatch.setattr(ledger, "_count", answered)
    fakes.plant(tmp_path, 0, "north", "bug")
    run = Run.inline(plan(SKIP), tmp_path)
    assert run.rows[1].failed == {"north": "error"}
    assert run.charged("north") == [2]


@pytest.mark.parametrize(
    ("failing", "quorum", "ends"), [(1, 0.6, False), (2, 0.6, True), (2, 0.3, False), (3, 0.3, True)]
)
def test_a_round_without_its_quorum_aggregates_nothing(tmp_path, failing, quorum, ends) -> None:
    for bank in fakes.BANKS[:failing]:
        fakes.plant(tmp_path, 1, bank, "bug")
    run = Run.inline(plan(Failures(policy="skip", quorum=quorum)), tmp_path)
    assert (run.error is not None) == ends
    if ends:
        assert run.error.exit_code == 7
        assert f"round 2: {3 - failing} of 3 banks answered" in str(run.error)
        assert "'east': error: ValueError: a bug in a plug-in; 'north': error" in str(run.error)
        assert [row.round for row in run.rows] == [0, 1]
        assert run.hash == "none"
        assert run.charged("west") == [1, 2], "its answer left the bank, in vain"


def test_a_lost_bank_adds_nothing_to_the_sum(tmp_path) -> None:
    """The others are averaged by their own examples, as if the bank had not been drawn."""
    fakes.plant(tmp_path, 0, "west", "bug")
    run = Run.inline(plan(Failures(policy="skip"), num_rounds=1), tmp_path)
    weights = {bank.bank: bank.num_steps for bank in run.rows[1].banks}
    assert weights == {"east": 3, "north": 3, "west": 0}
    assert run.rows[1].oracle["loss"] == pytest.approx((10 * 1 + 20 * 2) / 30)
