"""FedEx-LoRA (Singhal et al., 2410.09432): FedAvg of the factors, and what that misses as a residual.

A <- sum_k p_k A_k and B <- sum_k p_k B_k as FedIT; the residual s (sum_k p_k B_k A_k - B A) goes under the base. In
factors it is s sum_{k<K} p_k (B_k - B)(A_k - A_K), of rank (K - 1) r at most. Laws: the model that every bank holds
next is the exact mean of the banks' products; identical banks leave no residual. The head is averaged.

Deviations: banks weigh n_k (the authors' code, RaghavSinghal10/fedex-lora: all alike). The residual stays a frozen
adapter, exact on a quantised base, instead of being merged into it; residuals become one by QR once their ranks
exceed what a layer can hold. ``residual_rank`` is the paper's truncated variant: the best approximation of each
residual at that rank.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from fedsim.core import registry
from fedsim.core.adapter import AdapterState, factor, fold, stack, truncate, weighted_mean
from fedsim.core.messages import Exchange, ServerState
from fedsim.strategies.base import Sheet, Strategy, advance, returned, weights_of


def residual(banks: Sequence[AdapterState], mean: AdapterState, weights: Sequence[float]) -> AdapterState:
    """What the product of the means misses, as an adapter of rank (K - 1) r; K >= 2."""
    last = banks[-1].tensors
    centred = []
    for bank in banks[:-1]:
        origin = {name: (last if factor(name) == "A" else mean.tensors)[name] for name in bank.tensors}
        centred.append(bank.with_tensors({name: tensor - origin[name] for name, tensor in bank.tensors.items()}))
    return stack(centred, weights[:-1])


class FedExLoRA(Strategy):
    class Config(registry.Config):
        residual_rank: int | None = Field(None, ge=1, description="rank kept of each residual; exact when not given")

    sheet = Sheet(
        title="FedEx-LoRA (FedAvg and residual)",
        source="2410.09432",
        trains="A, B, head",
        up="A, B, head",
        down="A, B, head and a residual of rank (K - 1) r",
        exact="yes",
        state="server and banks: the residuals",
        needs_factors=True,
    )

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        weights = weights_of(exchanges)
        banks = [returned(exchange) for exchange in exchanges]
        mean = state.adapter.with_tensors(weighted_mean([bank.tensors for bank in banks], weights))
        if len(banks) == 1:
            return advance(state, mean)
        missed = residual(banks, mean, weights)
        if self.config.residual_rank is not None:
            missed = truncate(missed, self.config.residual_rank, 1.0)
        return advance(state, mean, frozen=fold(state.frozen, missed))
