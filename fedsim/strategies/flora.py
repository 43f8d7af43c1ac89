"""FLoRA (Wang et al., 2409.05976, equation 4): adapters are stacked, so their products add up exactly.

Bank: draws a fresh adapter of its own rank (A random, B = 0), trains it, sends it. Server: the stack [B_1 .. B_K]
[p_1 s_1 A_1; ..; p_K s_K A_K] = sum_k p_k s_k B_k A_k goes under the base as a frozen adapter. Laws: exact for
unequal ranks and scalings; p_k is applied once; the new adapter changes nothing until it is trained. The head is
averaged.

Deviations: the paper merges the stack into the base weights; here it stays a frozen adapter beside them, exact on a
quantised base as well, and once the stacks' ranks exceed what a layer can hold they become one by QR, exactly (with
``max_rank``: the best approximation of that rank). The fresh A is drawn from the job's seed on both sides and not
sent. The stack shows every bank's adapter to all banks. Short local training makes the method nearly inert: A and B
restart every round.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from fedsim.core import registry, seeds
from fedsim.core.adapter import AdapterState, Tensors, add, factor, fold, redraw, stack, subtract, weighted_mean
from fedsim.core.messages import Exchange, ServerState, TrainJob
from fedsim.strategies.base import LocalContext, LocalRule, Outcome, Sheet, Strategy, advance, fit, weights_of


def fresh(job: TrainJob) -> AdapterState:
    """The adapter a bank starts from; server and bank draw the same."""
    return redraw(job.adapter, job.adapter.rank, job.adapter.scaling, seeds.generator(job.seed, "flora"))


class FLoRARule(LocalRule):
    def start(self, job: TrainJob, kept: Tensors) -> AdapterState:
        return fresh(job)

    def finish(self, trained: AdapterState, context: LocalContext) -> Outcome:
        """The delta is against the fresh adapter, not the one received: this is what may be clipped."""
        return Outcome(delta=subtract(trained.tensors, context.start), slots={}, kept=context.kept)


class FLoRA(Strategy):
    class Config(registry.Config):
        max_rank: int | None = Field(None, ge=1, description="rank kept of the frozen stack; exact when not given")

    sheet = Sheet(
        title="FLoRA (stacking)",
        source="2409.05976, equation 4",
        trains="A, B, head",
        up="A, B, head",
        down="A and B of every participant, head; first A, B once",
        exact="yes",
        state="server and banks: the stack",
        mixed_ranks=True,
        keeps_basis=False,
        needs_factors=True,
    )

    def rule(self) -> LocalRule:
        return FLoRARule()

    def configure(self, state: ServerState, bank: str, seed: int) -> TrainJob:
        return fit(super().configure(state, bank, seed), state.bank(bank))

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        weights = weights_of(exchanges)
        starts = [fresh(exchange.job) for exchange in exchanges]
        deltas = [exchange.update.delta for exchange in exchanges]
        ended = [start.with_tensors(add(start.tensors, delta)) for start, delta in zip(starts, deltas, strict=True)]
        frozen = fold(state.frozen, stack(ended, weights), self.config.max_rank)
        heads = [{name: tensor for name, tensor in a.tensors.items() if factor(name) == "head"} for a in ended]
        return advance(state, state.adapter.with_tensors(weighted_mean(heads, weights)), frozen=frozen)
