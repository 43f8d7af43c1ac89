"""HetLoRA (Cho et al., 2401.06432): every bank at its own rank, pruned as it learns.

Down: bank k is sent the first r_k rows of A and columns of B. Bank: the loss gains lambda |B_tail| |A_tail|, the tail
being the ranks from floor(gamma r_k) on; if that product has shrunk by the end, r_k <- max(r_min, floor(gamma r_k)).
Up: the factors. Server: their mean, filled up with zeros; bank k weighs S_k / sum_j S_j, S_k = |B_k A_k|_F. Laws:
equal ranks and equal norms give FedAvg; ranks never grow nor fall below r_min; if all norms are zero, banks weigh
alike.

Deviations: S_k and the tail are taken over all modules jointly. The server decides on pruning from what it received
(the same numbers), so no rank is sent. Ranks that no participant holds keep their values, as zeros in A and in B
would never train again. Unequal scalings are folded into B. The head is averaged with weights n_k. Norms and ranks
depend on the data: noise per step covers them, noise added to a sum would not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core import registry
from fedsim.core.adapter import AdapterState, factor, leading, modules, product_norm, resize, weighted_mean
from fedsim.core.messages import Exchange, ServerState, TrainJob
from fedsim.strategies.base import LocalContext, LocalRule, Sheet, Strategy, advance, fit, returned, weights_of


def tail_norm(adapter: AdapterState, begin: int) -> float:
    """Sum over modules of |B_tail|_F |A_tail|_F."""
    tensors = adapter.tensors
    return sum(float(tensors[f"{m}.B"][:, begin:].norm() * tensors[f"{m}.A"][begin:].norm()) for m in modules(tensors))


def overlaid(adapter: AdapterState, tensors: dict[str, Tensor], rank: int) -> AdapterState:
    """The adapter with its first ``rank`` ranks and its head replaced."""
    changed = {}
    for name, new in tensors.items():
        old, kind = adapter.tensors[name], factor(name)
        if kind == "head":
            changed[name] = new
        else:
            changed[name] = torch.cat([new, old[rank:]], 0) if kind == "A" else torch.cat([new, old[:, rank:]], 1)
    return adapter.with_tensors(changed)


class HetLoRARule(LocalRule):
    def __init__(self, config: HetLoRA.Config) -> None:
        self.config = config

    def correct(self, params: dict[str, Tensor], grads: dict[str, Tensor], context: LocalContext) -> None:
        """Add the gradient of lambda |B_tail| |A_tail|, which is taken as zero where a norm is zero."""
        begin, lam = self.config.next_rank(context.job.adapter.rank), self.config.lam
        for module in modules(params):
            a, b = params[f"{module}.A"][begin:], params[f"{module}.B"][:, begin:]
            if a.any() and b.any():
                ratio = b.norm() / a.norm()
                grads[f"{module}.A"][begin:] += lam * ratio * a
                grads[f"{module}.B"][:, begin:] += lam / ratio * b


class HetLoRA(Strategy):
    class Config(registry.Config):
        lam: float = Field(1e-3, ge=0, description="lambda: weight of the tail's norm in the local loss")
        gamma: float = Field(0.99, gt=0, le=1, description="share of the ranks that a pruning keeps")
        r_min: int = Field(1, ge=1)

        def next_rank(self, rank: int) -> int:
            """The rank after one pruning, which is where the tail begins."""
            return min(rank, max(self.r_min, int(self.gamma * rank)))

    sheet = Sheet(
        title="HetLoRA (own ranks, norm weights)",
        source="2401.06432",
        trains="A, B, head",
        up="A, B, head",
        down="A, B, head",
        exact="no (covariance)",
        state="server: rank of every bank",
        mixed_ranks=True,
        keeps_basis=False,  # a pruned bank's tensors change shape
        needs_factors=True,
    )

    def rule(self) -> LocalRule:
        return HetLoRARule(self.config)

    def configure(self, state: ServerState, bank: str, seed: int) -> TrainJob:
        return fit(super().configure(state, bank, seed), state.bank(bank))

    def pruned(self, exchange: Exchange) -> AdapterState:
        """The bank's adapter, without its tail if the tail has shrunk."""
        received, ended = exchange.job.adapter, returned(exchange)
        begin = self.config.next_rank(ended.rank)
        return leading(ended, begin) if tail_norm(ended, begin) < tail_norm(received, begin) else ended

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        pruned = [self.pruned(exchange) for exchange in exchanges]
        norms = [product_norm(bank) for bank in pruned]
        top = max(bank.rank for bank in pruned)
        padded = [resize(bank, top, state.adapter.scaling).tensors for bank in pruned]
        by_norm = weighted_mean(padded, norms if sum(norms) > 0 else [1.0] * len(norms))
        by_size = weighted_mean(padded, weights_of(exchanges))
        mean = {name: (by_size if factor(name) == "head" else by_norm)[name] for name in by_norm}
        ranks = {exchange.job.bank: bank.rank for exchange, bank in zip(exchanges, pruned, strict=True)}
        banks = tuple(replace(bank, rank=ranks.get(bank.name, bank.rank)) for bank in state.banks)
        return advance(state, overlaid(state.adapter, mean, top), banks=banks)
