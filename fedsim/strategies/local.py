"""Local training, a baseline: every bank trains alone, and nothing is sent.

The adapter stays at its bank and is trained on from round to round; a bank is evaluated with its own. The global
model stays at its initial values. Banks may have unequal ranks. Law: a bank's adapter is what it would be if no other
bank existed.

Deviations: none.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedsim.core.adapter import AdapterState, Tensors
from fedsim.core.messages import Exchange, ServerState, TrainJob
from fedsim.strategies.base import LocalContext, LocalRule, Outcome, Sheet, Strategy, advance, fit, from_slots, to_slots


class LocalOnlyRule(LocalRule):
    personal = True

    def start(self, job: TrainJob, kept: Tensors) -> AdapterState:
        return job.adapter.with_tensors(from_slots("personal", kept))

    def finish(self, trained: AdapterState, context: LocalContext) -> Outcome:
        return Outcome(delta={}, slots={}, kept=to_slots("personal", trained.tensors))


class Local(Strategy):
    sheet = Sheet(
        title="Every bank alone",
        source="baseline",
        trains="A, B, head",
        up="nothing",
        down="first A, B, head once",
        exact="n/a (personal)",
        state="bank: its adapter",
        personal=True,
        mixed_ranks=True,
    )

    def rule(self) -> LocalRule:
        return LocalOnlyRule()

    def configure(self, state: ServerState, bank: str, seed: int) -> TrainJob:
        return fit(super().configure(state, bank, seed), state.bank(bank))

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        return advance(state, state.adapter)
