"""FedAdam (Reddi et al., 2003.00295, Algorithm 2): Adam on the server, the mean of the banks' changes as its gradient.

With Delta = sum_k p_k (x_k - x_t) over the factors and the head:

    m <- beta_1 m + (1 - beta_1) Delta;   v <- beta_2 v + (1 - beta_2) Delta^2;   x <- x + server_lr m / (sqrt(v) + tau)

from m = 0 and v = tau^2 (or ``v0``), without bias correction, as printed in the paper. Laws: a step has the sign of
m; for tau large against Delta and server_lr / tau fixed it is FedAvgM whose momentum is scaled by 1 - beta_1.

Deviations: none. Published code differs from the paper (bias correction, tau = 1e-9 or v = 0: a huge first step). The
paper tunes server_lr for every task; the default here suits changes of LoRA factors. Under DP choose tau above the
deviation of the noise in Delta, else the noise alone sets the step size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core import registry
from fedsim.core.adapter import AdapterState, map_tensors, weighted_mean
from fedsim.core.messages import BankInfo, Exchange, ServerState
from fedsim.strategies.base import Sheet, Strategy, advance, from_slots, to_slots, weights_of


class FedAdam(Strategy):
    class Config(registry.Config):
        server_lr: float = Field(0.01, gt=0)
        beta_1: float = Field(0.9, ge=0, lt=1)
        beta_2: float = Field(0.99, ge=0, lt=1)
        tau: float = Field(1e-3, gt=0)
        v0: float | None = Field(None, ge=0, description="initial v; tau^2 when not given")

    sheet = Sheet(
        title="FedAdam (server Adam)",
        source="2003.00295, Algorithm 2",
        trains="A, B, head",
        up="A, B, head",
        down="A, B, head",
        exact="no (covariance)",
        state="server: m, v",
        sums_only=True,
    )

    def init(self, adapter: AdapterState, banks: Sequence[BankInfo], seed: int) -> ServerState:
        v0 = self.config.tau**2 if self.config.v0 is None else self.config.v0
        m = map_tensors(torch.zeros_like, adapter.tensors)
        v = map_tensors(lambda x: torch.full_like(x, v0), adapter.tensors)
        slots = {**to_slots("m", m), **to_slots("v", v)}
        return replace(super().init(adapter, banks, seed), slots=slots)

    def second_moment(self, v: Tensor, delta: Tensor) -> Tensor:
        beta_2: float = self.config.beta_2
        return beta_2 * v + (1 - beta_2) * delta.square()

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        beta_1, server_lr, tau = self.config.beta_1, self.config.server_lr, self.config.tau
        delta = weighted_mean([exchange.update.delta for exchange in exchanges], weights_of(exchanges))
        m = map_tensors(lambda new, old: beta_1 * old + (1 - beta_1) * new, delta, from_slots("m", state.slots))
        v = map_tensors(lambda new, old: self.second_moment(old, new), delta, from_slots("v", state.slots))
        step = map_tensors(lambda m, v: server_lr * m / (v.sqrt() + tau), m, v)
        moved = map_tensors(torch.add, step, state.adapter.tensors)
        return advance(state, state.adapter.with_tensors(moved), slots={**to_slots("m", m), **to_slots("v", v)})
