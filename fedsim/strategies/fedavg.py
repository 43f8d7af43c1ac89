"""FedAvg of LoRA: FedIT / FedLoRA (Zhang et al., arXiv 2305.05644, Algorithm 1; McMahan et al., 1602.05629).

Server: A <- sum_k p_k A_k and B <- sum_k p_k B_k, p_k = n_k / sum_j n_j over the round's participants. The head, if one
is trained, is averaged the same way. Laws: identical banks are averaged exactly; one bank gives the identity map; the
result does not depend on the order of the banks. Not exact for the products: sum p_k B_k A_k differs from the product
of the means by the covariance of the factors.

Deviations: none. The optimizer starts fresh in every round, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedsim.core.adapter import add, weighted_mean
from fedsim.core.messages import Exchange, ServerState
from fedsim.strategies.base import Sheet, Strategy, advance, weights_of


class FedAvg(Strategy):
    sheet = Sheet(
        title="FedIT / FedLoRA (FedAvg on A and B)",
        source="2305.05644, Algorithm 1",
        trains="A, B, head",
        up="A, B, head",
        down="A, B, head",
        exact="no (covariance)",
        state="none",
        sums_only=True,
    )

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        mean = weighted_mean([exchange.update.delta for exchange in exchanges], weights_of(exchanges))
        return advance(state, state.adapter.with_tensors(add(state.adapter.tensors, mean)))
