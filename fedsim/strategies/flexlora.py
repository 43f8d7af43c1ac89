"""FlexLoRA (Bai et al., 2402.11505): average the products, split them again by SVD.

Server: sum_k p_k s_k B_k A_k = U S V^T; bank i is sent A_i = the first r_i rows of V^T and B_i = U S / s_i. Laws: the
product is preserved when r_i reaches its rank; else bank i's error is the best possible, (sum_{j > r_i} S_j^2)^(1/2);
the result depends on the banks' products only, not on how they are factored. The head is averaged.

Deviations from the paper and its code (alibaba/FederatedScope, branch FlexLoRA): the SVD comes from QR cores of the
stacked factors, never from a d_out x d_in matrix, with signs fixed. The server keeps the product at the largest rank
of any bank: nothing above it can be sent. Rows of A beyond the numerical rank keep their former values, because zeros
in A and in B would never train again (at B = 0, A stays as drawn).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fedsim.core.adapter import AdapterState, factor, modules, stack, truncate, weighted_mean
from fedsim.core.messages import Exchange, ServerState, TrainJob
from fedsim.strategies.base import Sheet, Strategy, advance, fit, returned, weights_of


def revived(adapter: AdapterState, former: AdapterState) -> dict[str, Tensor]:
    """The adapter's tensors with rows of A taken from ``former`` where the column of B is zero."""
    tensors = dict(adapter.tensors)
    for module in modules(adapter.tensors):
        a, b = f"{module}.A", f"{module}.B"
        alive = tensors[b].any(0)[:, None]  # (rank, 1)
        tensors[a] = tensors[a].where(alive, former.tensors[a])
    return tensors


class FlexLoRA(Strategy):
    sheet = Sheet(
        title="FlexLoRA (mean product, SVD)",
        source="2402.11505",
        trains="A, B, head",
        up="A, B, head",
        down="A, B, head",
        exact="yes, before truncation",
        state="none",
        mixed_ranks=True,
        keeps_basis=False,
        needs_factors=True,
    )

    def configure(self, state: ServerState, bank: str, seed: int) -> TrainJob:
        return fit(super().configure(state, bank, seed), state.bank(bank))

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        former, weights = state.adapter, weights_of(exchanges)
        banks = [returned(exchange) for exchange in exchanges]
        split = truncate(stack(banks, weights), former.rank, former.scaling)
        heads = [{name: tensor for name, tensor in bank.tensors.items() if factor(name) == "head"} for bank in banks]
        return advance(state, former.with_tensors({**revived(split, former), **weighted_mean(heads, weights)}))
