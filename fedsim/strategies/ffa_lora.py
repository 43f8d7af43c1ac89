"""FFA-LoRA (Sun et al., 2403.12313): one random A for everyone and for ever; B alone is trained and averaged.

B <- sum_k p_k B_k. Laws: A is bitwise constant; the product is the exact mean of the banks' products, since sum_k p_k
B_k A = (sum_k p_k B_k) A; DP noise enters once, in B, so it has no quadratic term. Banks may have unequal ranks: bank
k uses the first r_k rows of A, its B is filled with zero columns, and unequal scalings go into B.

Deviations: the head, where a model has one, is trained and averaged too. A is PEFT's draw, sent once. The method
needs its own learning rate: its authors' grid for B is ten times that for LoRA.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedsim.core.adapter import resize, weighted_mean
from fedsim.core.messages import Exchange, ServerState, TrainJob
from fedsim.strategies.base import LocalRule, Sheet, Strategy, TrainOnly, advance, fit, returned, weights_of


class FFALoRA(Strategy):
    sheet = Sheet(
        title="FFA-LoRA (A frozen)",
        source="2403.12313",
        trains="B, head",
        up="B, head",
        down="B, head; A once",
        exact="yes",
        state="none",
        sums_only=True,
        mixed_ranks=True,
        needs_factors=True,
    )

    def rule(self) -> LocalRule:
        return TrainOnly("B", "head")

    def configure(self, state: ServerState, bank: str, seed: int) -> TrainJob:
        return fit(super().configure(state, bank, seed), state.bank(bank))

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        rank, scaling = state.adapter.rank, state.adapter.scaling
        ended = [resize(returned(exchange), rank, scaling).tensors for exchange in exchanges]
        trained = exchanges[0].update.delta
        mean = weighted_mean([{name: tensors[name] for name in trained} for tensors in ended], weights_of(exchanges))
        return advance(state, state.adapter.with_tensors(mean))
