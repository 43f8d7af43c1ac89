"""A run in this process: what it yields, whom it samples, when it stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.codecs import pipeline
from fedsim.core.adapter import weighted_mean
from fedsim.core.events import BankDone, Failed, Finished, RoundRow, Served, Started, Waiting
from fedsim.core.messages import Spend
from fedsim.core.registry import NoKnobs
from fedsim.core.sections import Failures
from fedsim.engine.actor import ClientActor
from fedsim.engine.driver import Driver, sample
from fedsim.engine.failures import Decided
from fedsim.engine.gather import Gathered
from fedsim.engine.pool import Answer, InlinePool, Kept, Partial, Scored, Scoring
from fedsim.engine.resources import Actors
from fedsim.engine.rows import draft_of
from fedsim.engine.transport import Delivery
from fedsim.privacy.base import Terms
from fedsim.privacy.ledger import Charge, Ledger
from fedsim.privacy.none import NoPrivacy
from tests.engine import fakes

FLOATS = 2 * 3 + 4 * 2


def run(plan: fakes.Plan) -> list[object]:
    return list(fakes.inline(plan))


def rounds(events: Sequence[object]) -> list[RoundRow]:
    return [event for event in events if isinstance(event, RoundRow)]


def test_events_come_in_order() -> None:
    events = run(fakes.plan(num_rounds=2))
    done = [BankDone] * 3
    assert [type(event) for event in events] == [Started, RoundRow, *done, RoundRow, *done, RoundRow, Served, Finished]
    assert [(e.round, e.bank, e.done, e.total) for e in events if isinstance(e, BankDone)][:3] == [
        (1, "east", 1, 3),
        (1, "north", 2, 3),
        (1, "west", 3, 3),
    ]


def test_one_round_is_the_weighted_mean_of_what_the_banks_trained() -> None:
    plan = fakes.plan(num_rounds=1)
    served = next(event for event in run(plan) if isinstance(event, Served))
    trainer = fakes.MakeToy()()
    start = trainer.new_adapter(plan.seed)
    state = plan.strategy.init(start, plan.infos, plan.seed)
    jobs = [plan.strategy.configure(state, bank, plan.seed) for bank in fakes.BANKS]
    deltas = [trained.outcome.delta for trained in trainer.train(jobs, [{}, {}, {}])]
    mean = weighted_mean(deltas, [10, 20, 30])
    assert fakes.same(served.adapter.tensors, {name: start.tensors[name] + mean[name] for name in mean})


def test_bytes_of_a_round_are_four_per_scalar_and_bank() -> None:
    first, second = rounds(run(fakes.plan(num_rounds=2)))[1:]
    assert (first.bytes_down, first.bytes_up) == (3 * 4 * FLOATS, 3 * 4 * FLOATS)
    assert [row.bytes_up for row in second.banks] == [4 * FLOATS] * 3


def test_summary_adds_up_the_rounds() -> None:
    events = run(fakes.plan(num_rounds=3))
    summary = events[-1].summary  # type: ignore[attr-defined]
    assert summary["status"] == "completed"
    assert summary["rounds"] == 3
    assert summary["bytes_up"] == sum(row.bytes_up for row in rounds(events))
    assert summary["epsilon"] == pytest.approx(0.9)
    assert (summary["epsilon_pld"], summary["epsilon_pld_method"]) == (pytest.approx(0.45), "pld")
    west = summary["banks"]["west"]
    assert west["spend"] == {"sample_rate": 2 / 30, "noise_multiplier": 1.0, "num_steps": 9}
    assert (west["num_train"], west["rows"], west["bytes_up"], west["delta"]) == (30, 8.0, 3 * 4 * FLOATS, 1e-5)
    assert summary["metrics"] == rounds(events)[-1].metrics


def test_banks_that_join_late_are_not_asked_before_and_do_not_pay() -> None:
    events = run(replace(fakes.plan(num_rounds=3), joins={"north": 3, "west": 2}))
    assert [[bank.bank for bank in row.banks if bank.participated] for row in rounds(events)] == [
        [],
        ["east"],
        ["east", "west"],
        ["east", "north", "west"],
    ]
    banks = events[-1].summary["banks"]  # type: ignore[attr-defined]
    assert {name: bank["spend"]["num_steps"] for name, bank in banks.items()} == {"east": 9, "west": 6, "north": 3}
    sent = {name: bank["bytes_up"] // (4 * FLOATS) for name, bank in banks.items()}
    assert sent == {"east": 3, "west": 2, "north": 1}


def test_a_cohort_is_drawn_from_the_banks_that_are_there() -> None:
    plan = replace(fakes.plan(num_rounds=40, client_fraction=0.5), joins={"west": 21})
    drawn = [{bank.bank for bank in row.banks if bank.participated} for row in rounds(run(plan))[1:]]
    assert all(len(names) == 1 for names in drawn[:20]), "half of two banks"
    assert all(len(names) == 2 for names in drawn[20:]), "half of three, rounded"
    assert set().union(*drawn[:20]) == {"east", "north"}
    assert set().union(*drawn[20:]) == set(fakes.BANKS)
    assert drawn == [{bank.bank for bank in row.banks if bank.participated} for row in rounds(run(plan))[1:]]


def test_after_the_first_row_only_banks_of_whom_there_is_news_have_one() -> None:
    plan = fakes.plan(num_rounds=3, client_fraction=0.4)
    events = run(replace(plan, evaluation=replace(plan.evaluation, every=0)))
    first, one, two, last = rounds(events)
    assert [bank.bank for bank in first.banks] == [bank.bank for bank in last.banks] == list(fakes.BANKS)
    for row in (one, two):
        assert [bank.participated for bank in row.banks] == [True]
    banks = events[-1].summary["banks"]  # type: ignore[attr-defined]
    steps = Counter(bank.bank for row in rounds(events) for bank in row.banks if bank.participated)
    assert {name: bank["spend"]["num_steps"] for name, bank in banks.items()} == {n: 3 * steps[n] for n in fakes.BANKS}


def test_a_bank_that_was_charged_without_being_asked_has_a_row() -> None:
    """A torn line of the ledger is charged to every bank: nobody's epsilon may stay as it was last told."""
    plan = fakes.plan()
    ledger = plan.ledger(log=None)
    ledger.intend(Charge(1, "torn", {"north": Spend(1.0, 0.1, 3)}, False))
    row = draft_of(plan, ledger, 1, Gathered(), (), dict.fromkeys(fakes.BANKS, 0))
    assert [(bank.bank, bank.num_releases, bank.epsilon > 0) for bank in row.banks] == [("north", 3, True)]


def test_what_a_bank_keeps_comes_back_to_it() -> None:
    last = rounds(run(fakes.plan(num_rounds=3)))[-1]
    assert [row.oracle["rounds"] for row in last.banks] == [3.0, 3.0, 3.0]


def test_round_oracle_is_weighted_by_examples() -> None:
    assert rounds(run(fakes.plan(num_rounds=1)))[-1].oracle["loss"] == pytest.approx((10 + 40 + 90) / 60)


def test_evaluation_at_the_start_every_second_round_and_at_the_end() -> None:
    evaluated = [row.round for row in rounds(run(fakes.plan(num_rounds=5))) if row.metrics]
    assert evaluated == [0, 2, 4, 5]


def test_evaluation_changes_no_bit_of_training() -> None:
    plan = fakes.plan(num_rounds=4)
    always = replace(plan, evaluation=replace(plan.evaluation, every=1))
    never = replace(plan, evaluation=replace(plan.evaluation, every=0, per_bank=False))
    left, right = (next(e for e in run(p) if isinstance(e, Served)) for p in (always, never))
    assert fakes.same(left.adapter.tensors, right.adapter.tensors)


def test_no_rounds_is_an_evaluation() -> None:
    events = run(fakes.plan(num_rounds=0))
    assert [type(event) for event in events] == [Started, RoundRow, Served, Finished]
    assert events[-1].status == "completed"  # type: ignore[attr-defined]


def test_order_of_arrival_does_not_reach_the_result() -> None:
    class Backwards(InlinePool):
        def train(
            self,
            deliveries: Sequence[Delivery],
            kept: Sequence[Kept],
            failures: Failures,
            decided: Decided,
            first: Scoring | None = None,
        ) -> Iterator[Scored | Partial | Answer | Failed | Waiting]:
            yield from [] if first is None else self.score(first)
            yield from reversed(list(super().train(deliveries, kept, failures, decided)))

    plan = fakes.plan()
    events = list(Driver(plan, Backwards(fakes.make_client(plan)(), Actors())).run())
    assert [e.bank for e in events if isinstance(e, BankDone)][:3] == ["west", "north", "east"]
    left, right = (next(e for e in found if isinstance(e, Served)) for found in (events, run(plan)))
    assert fakes.same(left.adapter.tensors, right.adapter.tensors)


def test_a_sparse_upload_with_error_feedback_sends_everything_in_the_end() -> None:
    codec = pipeline([("topk", {"density": 0.5, "error_feedback": True})])
    row = rounds(run(fakes.plan(num_rounds=1, upload=codec)))[-1]
    assert row.bytes_up < 3 * 4 * FLOATS == row.bytes_down


# ------------------------------------------------------------------------------------------------ sampling and budget


def test_sampling_is_decided_by_seed_and_round() -> None:
    banks = [f"bank-{k}" for k in range(10)]
    drawn = [sample(banks, 0.3, 5, round_) for round_ in range(200)]
    assert drawn == [sample(banks, 0.3, 5, round_) for round_ in range(200)]
    assert all(len(cohort) == 3 and cohort == sorted(cohort) for cohort in drawn)
    assert drawn[0] != sample(banks, 0.3, 6, 0)
    counts = Counter(bank for cohort in drawn for bank in cohort)
    assert max(abs(count - 60) for count in counts.values()) < 25  # about 4 standard deviations of Binomial(200, 0.3)


@pytest.mark.parametrize(("fraction", "size"), [(0.01, 1), (0.25, 1), (0.5, 2), (0.9, 4), (1.0, 4)])
def test_cohort_size_is_rounded_and_at_least_one(fraction: float, size: int) -> None:
    assert len(sample(list("abcd"), fraction, 1, 0)) == size


def test_banks_outside_the_cohort_pay_nothing() -> None:
    row = rounds(run(fakes.plan(num_rounds=1, client_fraction=0.4)))[-1]
    assert [bank.participated for bank in row.banks].count(True) == 1
    for bank in row.banks:
        assert bank.participated == (bank.bytes_up > 0) == (bank.epsilon > 0)


def test_the_budget_stops_the_run_before_the_round_that_would_exceed_it() -> None:
    events = run(fakes.plan(num_rounds=10, cap=0.7))  # a round costs 0.3
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.status == "budget_exhausted"
    assert finished.summary["rounds"] == 2
    assert finished.summary["epsilon"] == pytest.approx(0.6)
    assert rounds(events)[-1].metrics, "the last round is evaluated although it came early"


def test_a_cap_that_the_planned_rounds_reach_exactly_stops_nothing() -> None:
    assert run(fakes.plan(num_rounds=2, cap=0.6))[-1].status == "completed"  # type: ignore[attr-defined]


def test_a_budget_below_one_round_trains_nothing() -> None:
    finished = run(fakes.plan(num_rounds=2, cap=0.2))[-1]
    assert isinstance(finished, Finished)
    assert (finished.status, finished.summary["rounds"], finished.summary["epsilon"]) == ("budget_exhausted", 0, 0.0)


def test_without_a_mechanism_epsilon_is_infinite_in_rows_and_null_in_the_summary() -> None:
    plan = fakes.plan(num_rounds=1)
    unprotected = {name: NoPrivacy(NoKnobs(), mechanism.plan) for name, mechanism in plan.mechanisms.items()}
    plan = replace(plan, mechanisms=unprotected, ledger=Ledger)
    client = ClientActor(fakes.MakeToy(private=False), plan.rule, plan.upload)
    events = list(Driver(plan, InlinePool(client, Actors())).run())
    assert [row.epsilon for row in rounds(events)] == [0.0, float("inf")]
    summary = events[-1].summary  # type: ignore[union-attr]
    assert (summary["epsilon"], summary["epsilon_pld"], summary["banks"]["west"]["delta"]) == (None, None, None)
    assert summary["banks"]["west"]["spend"]["noise_multiplier"] == 0


def test_tight_epsilons_are_computed_for_the_banks_that_spent_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.engine.driver.TIGHT_BANKS", 1)
    summary = run(fakes.plan(num_rounds=1, client_fraction=0.4))[-1].summary  # type: ignore[attr-defined]
    methods = {bank["spend"]["num_steps"]: bank["epsilon_pld_method"] for bank in summary["banks"].values()}
    assert methods == {3: "pld", 0: "rdp"}


# ---------------------------------------------------------------------------------------------------------- evaluation


def test_bank_metrics_are_slices_of_one_pass() -> None:
    row = rounds(run(fakes.plan(num_rounds=1)))[-1]
    assert row.metrics["rows"] == 20
    assert [bank.metrics["rows"] for bank in row.banks] == [6, 6, 8]
    mean = np.average([bank.metrics["nll"] for bank in row.banks], weights=[6, 6, 8])
    assert row.metrics["nll"] == pytest.approx(mean)


def test_a_personal_bank_is_measured_with_its_own_adapter() -> None:
    plan = fakes.plan(rule=fakes.Personal(), num_rounds=2)
    row = rounds(run(plan))[-1]
    assert [bank.metrics["everyone_rows"] for bank in row.banks] == [20, 20, 20]
    assert [bank.metrics["rows"] for bank in row.banks] == [6, 6, 8]
    assert len({bank.metrics["everyone_nll"] for bank in row.banks}) == 3
    assert row.banks[0].metrics["everyone_nll"] != row.metrics["nll"]


def test_the_adapters_that_banks_use_themselves_are_handed_out_at_the_end() -> None:
    plan = fakes.plan(rule=fakes.Personal(), num_rounds=2)
    served = {event.bank: event.adapter.tensors for event in run(plan) if isinstance(event, Served)}
    assert list(served) == [None, *fakes.BANKS]
    assert len({float(served[bank]["q.B"].sum()) for bank in fakes.BANKS}) == 3
    assert all(torch.equal(served[bank]["q.A"], served[None]["q.A"]) for bank in fakes.BANKS)
    assert not any(isinstance(event, Served) for event in run(replace(plan, exports=False)))


def test_one_bank_may_train_on_the_rows_of_all() -> None:
    plan = fakes.plan(num_rounds=2)
    whole = replace(plan.mechanisms["west"].plan, name="west")
    pooled = replace(plan, infos=plan.infos[2:], mechanisms={"west": fakes.ToyMechanism(Terms(dp_delta=1e-5), whole)})
    events = run(replace(pooled, banks=plan.banks[:2]))
    row = rounds(events)[-1]
    assert [(bank.bank, bank.num_train, bank.num_steps) for bank in row.banks] == [("east", 10, 3), ("north", 20, 3)]
    assert [bank.metrics["rows"] for bank in row.banks] == [6, 6]
    assert (row.bytes_up, [bank.bytes_up for bank in row.banks]) == (4 * FLOATS, [0, 0])
    assert [bank.epsilon for bank in row.banks] == [pytest.approx(0.6)] * 2
    assert {event.bank for event in events if isinstance(event, BankDone)} == {"west"}


def test_a_bank_without_test_rows_has_no_metrics() -> None:
    plan = fakes.plan(num_rounds=1)
    banks = (replace(plan.banks[0], test=np.array([], dtype=np.int64)), *plan.banks[1:])
    row = rounds(run(replace(plan, banks=banks)))[-1]
    assert row.banks[0].metrics == {}
    assert row.metrics["rows"] == 14


def test_inputs_of_aggregation_are_the_received_adapter() -> None:
    """With a lossy download the job in an exchange holds what arrived, not what was sent."""
    plan = fakes.plan(num_rounds=1, download=pipeline([("bfloat16", {})]))
    seen: list[torch.Tensor] = []

    class Spy(type(plan.strategy)):  # type: ignore[misc]
        def aggregate(self, state, exchanges):  # type: ignore[no-untyped-def]
            seen.extend(exchange.job.adapter.tensors["q.A"] for exchange in exchanges)
            return super().aggregate(state, exchanges)

    run(replace(plan, strategy=Spy(plan.strategy.config)))
    start = fakes.MakeToy()().new_adapter(plan.seed).tensors["q.A"]
    assert all(torch.equal(tensor, start.bfloat16().float()) for tensor in seen)
    assert not torch.equal(seen[0], start)
