"""FedAvgM (Hsu et al., 1909.06335): momentum on the server.

With Delta = sum_k p_k (x_k - x_t) over the factors and the head: v <- beta v + Delta;  x <- x + server_lr v;  v_0 =
0. Laws: beta = 0 and server_lr = 1 is FedAvg; a constant Delta is followed by steps that grow to Delta / (1 - beta).

Deviations: none. Momentum is not Nesterov's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import Field

from fedsim.core import registry
from fedsim.core.adapter import AdapterState, map_tensors, weighted_mean
from fedsim.core.messages import BankInfo, Exchange, ServerState
from fedsim.strategies.base import Sheet, Strategy, advance, from_slots, to_slots, weights_of


class FedAvgM(Strategy):
    class Config(registry.Config):
        beta: float = Field(0.9, ge=0, lt=1)
        server_lr: float = Field(1.0, gt=0)

    sheet = Sheet(
        title="FedAvgM (server momentum)",
        source="1909.06335",
        trains="A, B, head",
        up="A, B, head",
        down="A, B, head",
        exact="no (covariance)",
        state="server: momentum",
        sums_only=True,
    )

    def init(self, adapter: AdapterState, banks: Sequence[BankInfo], seed: int) -> ServerState:
        slots = to_slots("v", map_tensors(torch.zeros_like, adapter.tensors))
        return replace(super().init(adapter, banks, seed), slots=slots)

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        beta, server_lr = self.config.beta, self.config.server_lr
        delta = weighted_mean([exchange.update.delta for exchange in exchanges], weights_of(exchanges))
        v = map_tensors(lambda new, old: beta * old + new, delta, from_slots("v", state.slots))
        moved = map_tensors(lambda step, x: x + server_lr * step, v, state.adapter.tensors)
        return advance(state, state.adapter.with_tensors(moved), slots=to_slots("v", v))
