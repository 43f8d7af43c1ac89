"""The run: rounds of federated training as one straight path.

    sample -> configure -> charge -> send -> train -> receive -> aggregate -> commit -> evaluate -> report

A method that needs the banks' mean alone is given sums that the actors made (``engine.sums``), so that the driver never
holds all updates. Under secure aggregation it sees no update at all (``engine.secure``).
Where banks trust the server with bank-level privacy, a curator samples them and stands between receive and aggregate.

The driver knows no Ray: it is given a pool of client actors, leaves its rounds in a store and yields events. Everything
random is drawn from (seed, round), and updates are aggregated in bank order, so neither the number of actors nor who
answers first reaches a number. Rounds count from 0 inside a job and from 1 in what is shown.

Around a round stand four writes, each durable before the next step: the ledger is charged before jobs are sent, the
hash of what came back is noted before it is aggregated, the new state is committed before the next round begins, and
what was measured of it is noted before its row is shown. A driver that is killed at any instant is followed by one that
goes on from the last commit and comes to the same bits.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from fedsim.core import seeds
from fedsim.core.adapter import map_tensors
from fedsim.core.errors import CheckpointError, FedsimError
from fedsim.core.events import Event, Failed, Finished, Seen, Served
from fedsim.core.messages import Exchange, ServerState, Update
from fedsim.engine import account
from fedsim.engine.checkpoint import Saved, require_fits
from fedsim.engine.evaluation import own_adapters
from fedsim.engine.failures import REFUSALS, Decided, Offences
from fedsim.engine.gather import Gathered, Missing, Told, gather, require_quorum
from fedsim.engine.keeping import require_kept_fits, require_links_fit
from fedsim.engine.plan import Plan
from fedsim.engine.pool import Kept, Pool
from fedsim.engine.resources import in_a_round
from fedsim.engine.secure_uplink import SecureUplink, asked
from fedsim.engine.store import Restored, open_store
from fedsim.engine.telling import Draft, Telling
from fedsim.engine.transport import Delivery, Downlink, digest_of
from fedsim.engine.uplink import Receiver, SummingUplink, Uplink
from fedsim.privacy.accounting import Bound
from fedsim.privacy.ledger import Charge

TIGHT_BANKS = 64  # a tight epsilon takes up to a second: it is computed for so many banks, the worst ones


@dataclass(frozen=True, slots=True)
class _Turn:
    """A round that the budget allows: who trains, and who pays what for it."""

    cohort: list[str]
    barred: dict[str, Failed]  # those of the cohort that are not asked
    charge: Charge


class Driver:
    """One run of a plan on a pool. The pool is the caller's to close."""

    def __init__(self, plan: Plan, pool: Pool) -> None:
        self.plan, self.pool = plan, pool
        self.downlink = Downlink(plan.download, plan.seed)
        self.uplink = uplink(plan, pool)
        self.store = open_store(plan.store)
        self.ledger = plan.ledger(log=self.store.ledger)
        self.telling = Telling(plan, pool, self.store)
        self.kept: dict[str, Kept] = {}  # by bank; carried, never read
        self.offences = Offences(plan.failures.quarantine)

    def run(self) -> Iterator[Event]:
        """Started, then per round BankDone of each bank and a RoundRow, then Served of each model and Finished.

        Between them Failed, whose action is taken when the next event is asked for, and Waiting. A resumed run begins
        with the failures and rows of its committed rounds. A row is told when its round is measured: nothing of the
        next one is told before, though it may be in training. A run that fails before that tells it when it is resumed.
        """
        plan, telling = self.plan, self.telling
        found, notes = self._restored()
        yield from self.pool.ready()
        yield plan.started(notes)
        yield from self._retold(found)
        first = plan.strategy.init(self.pool.new_adapter(plan.seed), plan.infos, plan.seed)
        if found is None:
            state = first
            self._stage(state)
            draft = telling.committed(state, Gathered(), self.ledger, self.kept, last=False)
            turn = self._next(state)
        else:
            state = self._taken_up(found.saved, first)
            turn = self._next(state)
            draft = telling.resumed(found, state, self.ledger, self.kept, last=turn is None)
        while turn is not None:
            trained = yield from self._train(state, turn, draft)
            given, gathered = self.uplink.end(trained)
            if plan.audited:
                yield Seen(tuple(given))
            state = self._aggregate(turn, state, given, trained)
            self._stage(state)
            turn = self._next(state)
            draft = telling.committed(state, gathered, self.ledger, self.kept, last=turn is None)
        yield from telling.now(draft)
        if plan.exports:
            yield from self._served(state)
        status = "completed" if state.round == plan.num_rounds else "budget_exhausted"
        tight, shared = self._tight_epsilons(), self.ledger.tight_together()
        yield Finished(status, telling.summary.result(status, telling.seconds(), tight, shared))

    # ------------------------------------------------------------------------------------------ what is durable

    def _restored(self) -> tuple[Restored | None, tuple[str, ...]]:
        """(what to go on from, or None at the beginning; what the user should know)."""
        found = self.store.restore()
        notes = ["The privacy ledger's last line was cut short: charged to every bank."] if self._mended() else []
        if found is None:
            return None, tuple(notes)
        round_ = found.saved.state.round
        notes += [f"Damaged: {what}; going back to round {round_}." for what in found.passed]
        return found, (*notes, f"Resumed after round {round_} of {self.plan.num_rounds}.")

    def _taken_up(self, saved: Saved, first: ServerState) -> ServerState:
        """The state to go on from, once it is sure that all of it is of the run that begins so."""
        try:
            require_fits(saved.state, first)
            require_kept_fits(saved.kept, self.plan, first)
            require_links_fit(saved.links, self.plan, first)
        except CheckpointError as error:
            raise CheckpointError(
                f"{self.plan.run_dir}: round {saved.state.round} is not of this run: {error}; go on with the model "
                "and the versions that it began with, or begin again in another directory"
            ) from error
        self.downlink.links.update(saved.links)
        self.kept.update({bank: self.pool.load(data) for bank, data in saved.kept.items()})
        return saved.state

    def _mended(self) -> bool:
        return self.ledger.mend({info.name: account.price(self.plan, info.name) for info in self.plan.infos})

    def _retold(self, found: Restored | None) -> Iterator[Event]:
        """Committed rounds but for the newest row: everything that adds up over the rounds takes them in."""
        if found is None:
            return
        for row in (*found.rows, found.newest):
            for one in self.store.failures(row.round):
                self.offences.note(one)
                yield one
            if row is not found.newest:
                self.telling.again(row)
                yield row

    def _stage(self, state: ServerState) -> None:
        mine = ((place, self.kept.get(info.name)) for place, info in enumerate(self.plan.infos))
        kept = ((place, self.pool.save(own)) for place, own in mine if own is not None)
        self.store.stage(state, self.downlink.links, ((place, data) for place, data in kept if data))

    # -------------------------------------------------------------------------------------------------- a round

    def _next(self, state: ServerState) -> _Turn | None:
        """The round to come; None when the run is over, or when the round would take a bank over the cap."""
        plan, banks, round_ = self.plan, self.plan.joined(state.round), state.round
        if round_ >= plan.num_rounds:
            return None
        cohort = drawn(plan, state)
        barred = {one.bank: one for one in self.offences.barred(round_, cohort)}
        paying = plan.curator.paying(banks, cohort) if plan.curator else [bank for bank in cohort if bank not in barred]
        charge = account.charge(plan, self.store, round_ + 1, paying)
        if plan.dp_cap is not None and not self.ledger.allows(charge, plan.dp_cap):
            return None
        return _Turn(cohort, barred, charge)

    def _train(self, state: ServerState, turn: _Turn, draft: Draft) -> Generator[Event, None, Gathered]:
        """What the banks of a round send, and who is missing: QuorumError when the round may not go on without them.

        The ``draft`` of the round before is told first; where it is to be measured, this round may train meanwhile.

        A round that fails is tried again as if for the first time; one that was killed goes the way that it went.
        """
        plan, names = self.plan, [bank for bank in turn.cohort if bank not in turn.barred]
        jobs = [plan.strategy.configure(state, bank, plan.seed) for bank in names]
        decided = [one for one in self.store.failures(state.round + 1) if one.bank not in turn.barred]
        if draft.asked is None or turn.barred or decided:
            yield from self.telling.now(draft)
        for one in turn.barred.values():
            self.store.note(one)
        yield from (*turn.barred.values(), *(one for one in decided if one.cause not in REFUSALS))
        try:
            deliveries = self.uplink.begin(self.downlink.send(jobs))
            self.ledger.intend(account.of_jobs(plan, turn.charge, deliveries))
            train = partial(self._answers, draft, deliveries)
            gathering = gather(plan, train, self.uplink, deliveries, self.kept, decided)
            gathered = yield from self._noted(gathering)
            missing = {bank: Missing(one) for bank, one in turn.barred.items()} | gathered.missing
            gathered.missing = {bank: missing[bank] for bank in turn.cohort if bank in missing}
            require_quorum(plan, gathered.missing, len(turn.cohort))
        except FedsimError:
            self.store.forget(state.round + 1)
            raise
        for lost in gathered.missing.values():
            self.offences.note(lost.failed)
        return gathered

    def _answers(
        self, draft: Draft, deliveries: Sequence[Delivery], kept: Sequence[Kept], decided: Decided
    ) -> Iterator[Told]:
        """Of actors that measure the round before first."""
        answers = self.pool.train(deliveries, kept, self.plan.failures, decided, draft.asked)
        return self.telling.beside(draft, answers)

    def _noted(self, events: Generator[Event, None, Gathered]) -> Generator[Event, None, Gathered]:
        """The same events; a failure is on the disk before its action is taken."""
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                gathered: Gathered = end.value
                return gathered
            if isinstance(event, Failed):
                self.store.note(event)
            yield event

    def _aggregate(self, turn: _Turn, state: ServerState, given: Sequence[Exchange], gathered: Gathered) -> ServerState:
        """The method's next state, from what the uplink gives it or from what a curator gives on of that."""
        plan, round_ = self.plan, turn.charge.round
        if plan.curator is None:
            account.require_charged(turn.charge, gathered)
            self.ledger.commit(round_, account.outputs(plan, given, gathered))
            return plan.strategy.aggregate(state, given)
        released, slots = plan.curator.release(given, self._blank(state, given), state.slots)
        output = digest_of({**released.update.delta, **slots})
        self.ledger.commit(round_, dict.fromkeys(turn.charge.spends, output))
        after = plan.strategy.aggregate(state, [released])
        return replace(after, slots={**after.slots, **slots})

    def _blank(self, state: ServerState, exchanges: Sequence[Exchange]) -> Exchange:
        """An exchange of this round with an update of zeros, in the first bank's name: perhaps no bank was drawn."""
        job = self.plan.strategy.configure(state, self.plan.infos[0].name, self.plan.seed)
        trained = {n: t for n, t in job.adapter.tensors.items() if self.plan.rule.trains(n, state.round)}
        like = exchanges[0].update.delta if exchanges else trained
        return Exchange(job, Update(job.bank, map_tensors(torch.zeros_like, like), num_examples=1, num_steps=0))

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
    """How updates come in: one by one, as sums that were made near the data, or masked."""
    sizes = {info.name: info.num_examples for info in plan.infos}
    if plan.secure_sum is not None:
        return SecureUplink(plan.secure_sum, plan.rule, sizes, plan.seed, partial(asked, pool), plan.failures)
    receiver = Receiver(plan.upload, plan.rule, plan.failures)
    if plan.curator is not None or plan.audited or not plan.strategy.sheet.sums_only:  # each is clipped or looked at
        return Uplink(receiver)
    equal = plan.strategy.sheet.equal_weights
    return SummingUplink(receiver, {bank: 1.0 if equal else float(size) for bank, size in sizes.items()})


def drawn(plan: Plan, state: ServerState) -> list[str]:
    """The banks of a round in bank order, as the method, a trusted server or ``client_fraction`` has it."""
    banks = plan.joined(state.round)
    if plan.curator is not None:
        return plan.curator.cohort(banks, plan.seed, state.round)
    return plan.strategy.arrivals(state) or sample(banks, plan.client_fraction, plan.seed, state.round)


def sample(banks: Sequence[str], fraction: float, seed: int, round_: int) -> list[str]:
    """The banks of a round in bank order. Depends on (seed, round) only."""
    size = in_a_round(fraction, len(banks))
    chosen = seeds.rng(seed, "cohort", round_).choice(len(banks), size, replace=False)
    return [banks[index] for index in sorted(chosen)]
