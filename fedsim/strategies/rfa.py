"""Geometric median of the banks' updates: RFA (Pillutla, Kakade and Harchaoui, 1912.13445, Algorithm 2).

The server's step minimises sum_k p_k |z - v_k| over z, v_k the update of bank k, factors and head as one vector,
p_k = n_k / sum_j n_j, by the smoothed Weiszfeld algorithm from the weighted mean:
beta_k = p_k / max(nu, |z - v_k|), z <- sum_k beta_k v_k / sum_k beta_k. While banks of less than half of the weight
are hostile, whatever these send moves z by a bounded amount (their Lemma 2).
Laws: identical banks give their update; one bank gives the identity map; z turns and shifts with the updates; the order
of the banks does not matter. Not exact for the products: it is a median of factors.

Deviations: 20 steps by default, not the 4 of the authors' code: from a mean that a third of the weight has moved far
away, a step halves the way back. ``nu`` is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field

from fedsim.core import registry
from fedsim.core.adapter import add, flatten, unflatten
from fedsim.core.messages import Exchange, ServerState
from fedsim.strategies.base import Sheet, Strategy, advance, weights_of


class RFA(Strategy):
    class Config(registry.Config):
        num_iters: int = Field(20, ge=1)
        nu: float = Field(1e-5, gt=0)

    sheet = Sheet(
        title="RFA (geometric median of updates)",
        source="1912.13445, Algorithm 2",
        trains="A, B, head",
        up="A, B, head",
        down="A, B, head",
        exact="no (median of factors)",
        state="none",
    )

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        like = exchanges[0].update.delta
        updates = torch.stack([flatten(exchange.update.delta).double() for exchange in exchanges])  # (n, P)
        weights = torch.tensor(weights_of(exchanges), dtype=torch.float64)
        z = weights @ updates
        for _ in range(self.config.num_iters):
            beta = weights / (updates - z).norm(dim=1).clamp(min=self.config.nu)
            z = beta @ updates / beta.sum()
        step = unflatten(z.to(next(iter(like.values())).dtype), like)
        return advance(state, state.adapter.with_tensors(add(state.adapter.tensors, step)))
