"""The run: rounds of federated training as one straight path.

    sample -> configure -> send -> train -> decode -> aggregate -> charge -> evaluate -> report

Under secure aggregation the driver sees the sum of the updates alone (``engine.secure``).
Where banks trust the server with bank-level privacy, a curator samples them and stands between decode and aggregate.

The driver knows no Ray and writes no files: it is given a pool of client actors and yields events. Everything random
is drawn from (seed, round), and updates are aggregated in bank order, so neither the number of actors nor who answers
first reaches a number. Rounds count from 0 inside a job and from 1 in what is shown.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from fedsim.core import seeds
from fedsim.core.adapter import map_tensors
from fedsim.core.events import Event, Failed, Finished, RoundRow, Served
from fedsim.core.messages import Exchange, ServerState, Update
from fedsim.engine.evaluation import Evaluated, evaluate, own_adapters
from fedsim.engine.failures import Offences
from fedsim.engine.gather import Gathered, Missing, gather, require_quorum
from fedsim.engine.plan import Plan
from fedsim.engine.pool import Kept, Pool
from fedsim.engine.rows import round_row
from fedsim.engine.secure_uplink import SecureUplink, asked
from fedsim.engine.transport import Downlink
from fedsim.engine.uplink import Uplink
from fedsim.privacy.accounting import Bound
from fedsim.records.summary import Summary

TIGHT_BANKS = 64  # a tight epsilon takes up to a second: it is computed for so many banks, the worst ones


class Driver:
    """One run of a plan on a pool. The pool is the caller's to close."""

    def __init__(self, plan: Plan, pool: Pool) -> None:
        self.plan, self.pool = plan, pool
        self.downlink = Downlink(plan.download, plan.seed)
        self.uplink = uplink(plan, pool)
        self.ledger = plan.ledger()
        self.summary = Summary(plan.started())
        self.kept: dict[str, Kept] = {}  # by bank; carried, never read
        self.offences = Offences(plan.failures.quarantine)
        self.decided: Mapping[int, Sequence[Failed]] = {}  # by round (from 0): what a resumed run must do again

    def run(self) -> Iterator[Event]:
        """Started, then per round BankDone of each bank and a RoundRow, then Served of each model and Finished.

        Between them Failed, whose action is taken when the next event is asked for, and Waiting.
        """
        plan, strategy, clock = self.plan, self.plan.strategy, _Clock()
        yield from self.pool.ready()
        yield plan.started()
        state = strategy.init(self.pool.new_adapter(plan.seed), plan.infos, plan.seed)
        yield self._row(0, Gathered(), evaluate(plan, self.pool, state, self.kept), clock.lap())
        cohort = self._cohort(0)
        while cohort is not None:
            given, gathered = self.uplink.end((yield from self._train(state, cohort)))
            state = self._aggregate(state, given)
            self._charge(state.round, gathered)
            cohort = self._cohort(state.round)
            evaluated = self._evaluate(state, last=cohort is None)
            yield self._row(state.round, gathered, evaluated, clock.lap())
        if plan.exports:
            yield from self._served(state)
        status = "completed" if state.round == plan.num_rounds else "budget_exhausted"
        yield Finished(status, self.summary.result(status, clock.total(), self._tight_epsilons()))

    def _cohort(self, round_: int) -> list[str] | None:
        """The banks of a round; None when the run is over, or when the round would take one of them over the cap."""
        plan, banks = self.plan, [info.name for info in self.plan.infos]
        if round_ >= plan.num_rounds:
            return None
        if plan.curator is None:
            cohort = paying = sample(banks, plan.client_fraction, plan.seed, round_)
        else:
            cohort, paying = plan.curator.cohort(banks, plan.seed, round_), banks
        if plan.dp_cap is not None:
            for bank in paying:
                mechanism = plan.mechanisms[bank]
                spend = mechanism.spend(mechanism.plan.steps_per_round)
                if self.ledger.would_exceed(bank, spend, plan.dp_cap):
                    return None
        return cohort

    def _aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        """The method's next state, from what the banks sent or from what a curator gives on of it."""
        plan = self.plan
        if plan.curator is None:
            return plan.strategy.aggregate(state, exchanges)
        released, slots = plan.curator.release(exchanges, self._blank(state, exchanges), state.slots)
        after = plan.strategy.aggregate(state, [released])
        return replace(after, slots={**after.slots, **slots})

    def _blank(self, state: ServerState, exchanges: Sequence[Exchange]) -> Exchange:
        """An exchange of this round with an update of zeros, in the first bank's name: perhaps no bank was drawn."""
        job = self.plan.strategy.configure(state, self.plan.infos[0].name, self.plan.seed)
        trained = {n: t for n, t in job.adapter.tensors.items() if self.plan.rule.trains(n, state.round)}
        like = exchanges[0].update.delta if exchanges else trained
        return Exchange(job, Update(job.bank, map_tensors(torch.zeros_like, like), num_examples=1, num_steps=0))

    def _charge(self, round_: int, gathered: Gathered) -> None:
        """Each bank that has trained or may have; under a curator all, as not being drawn is part of the account."""
        if self.plan.curator is not None:
            for info in self.plan.infos:
                self.ledger.charge(round_, info.name, self.plan.curator.spend())
            return
        for exchange in gathered.exchanges:
            self.ledger.charge(round_, exchange.update.bank, exchange.update.spend)
        for bank, one in gathered.missing.items():
            if one.failed.may_have_trained:
                mechanism = self.plan.mechanisms[bank]
                self.ledger.charge(round_, bank, mechanism.spend(mechanism.plan.steps_per_round))

    def _train(self, state: ServerState, cohort: Sequence[str]) -> Generator[Event, None, Gathered]:
        """What the banks of a round send, and who is missing: QuorumError when the round may not go on without them."""
        barred = {one.bank: Missing(one) for one in self.offences.barred(state.round, cohort)}
        for one in barred.values():
            yield one.failed
        asked = [bank for bank in cohort if bank not in barred]
        jobs = [self.plan.strategy.configure(state, bank, self.plan.seed) for bank in asked]
        decided = self.decided.get(state.round, ())
        deliveries = self.uplink.begin(self.downlink.send(jobs))
        gathered = yield from gather(self.plan, self.pool, self.uplink, deliveries, self.kept, decided)
        for one in gathered.missing.values():
            self.offences.note(one.failed)
        gathered.missing = {bank: both[bank] for both in [barred | gathered.missing] for bank in cohort if bank in both}
        require_quorum(self.plan, gathered.missing, len(cohort))
        return gathered

    def _evaluate(self, state: ServerState, last: bool) -> Evaluated:
        every = self.plan.evaluation.every
        if last or (every and state.round % every == 0):
            return evaluate(self.plan, self.pool, state, self.kept)
        return Evaluated()

    def _row(self, round_: int, gathered: Gathered, evaluated: Evaluated, seconds: float) -> RoundRow:
        row = round_row(self.plan, self.ledger, round_, gathered, evaluated, seconds)
        self.summary.add(row)
        return row

    def _served(self, state: ServerState) -> Iterator[Served]:
        """The global model, and under a personal rule every bank's own as its actor hands it out: for export only."""
        yield Served(self.plan.strategy.serve(state), state.frozen)
        if self.plan.rule.personal:
            for bank, adapter in own_adapters(self.plan, self.pool, state, self.kept):
                yield Served(adapter, state.frozen, bank)

    def _tight_epsilons(self) -> dict[str, Bound]:
        """By reported bank: tight for those that spent most, as charged for the others."""
        ledger = self.ledger
        ranked = sorted((info.name for info in self.plan.infos), key=ledger.epsilon, reverse=True)
        bounds = {bank: ledger.tight_epsilon(bank) for bank in ranked[:TIGHT_BANKS]}
        bounds |= {bank: Bound(ledger.epsilon(bank), ledger.accountant) for bank in ranked[TIGHT_BANKS:]}
        return {bank.name: bounds[self.plan.trainer_of(bank.name)] for bank in self.plan.banks}


def uplink(plan: Plan, pool: Pool) -> Uplink:
    """How updates come in: one by one, or as a sum."""
    if plan.secure_sum is None:
        return Uplink(plan.upload)
    sizes = {info.name: info.num_examples for info in plan.infos}
    return SecureUplink(plan.secure_sum, plan.rule, sizes, plan.seed, partial(asked, pool))


def sample(banks: Sequence[str], fraction: float, seed: int, round_: int) -> list[str]:
    """``round(fraction * n)`` banks of a round, at least one, in bank order. Depends on (seed, round) only."""
    size = max(1, round(fraction * len(banks)))
    chosen = seeds.rng(seed, "cohort", round_).choice(len(banks), size, replace=False)
    return [banks[index] for index in sorted(chosen)]


class _Clock:
    """Seconds since the start and since the last lap."""

    def __init__(self) -> None:
        self._start = self._lap = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        self._lap, past = now, now - self._lap
        return past

    def total(self) -> float:
        return time.perf_counter() - self._start
