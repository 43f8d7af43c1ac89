"""FDLoRA (Qi et al., 2406.07925; no code found): a personal and a shared adapter at every bank, fused at the end.

Stage 1, round 0: every bank trains a personal adapter and sends it; theta <- mean. Stage 2, round t >= 1: every bank
trains from theta; with Delta = mean of (theta - theta_k), the server steps by Nesterov momentum (DiLoCo):

    m <- momentum m + Delta;   theta <- theta - outer_lr (Delta + momentum m)

and in every ``sync_every``-th round the personal adapter becomes the bank's trained shared one. Stage 3 (AdaFusion),
at the end and at the bank: B = w_1 B_p + w_2 B_s, A = w_1 A_p + w_2 A_s, with w from a gradient-free search that
minimises the bank's loss + fusion_penalty (|w_1| + |w_2|). Laws: outer_lr = 1 and momentum = 0 is FedAvg; w = (1, 0)
is the personal adapter, (0, 1) the shared one, and the search never ends worse than either or their mean.

Deviations: means are weighted by n_k (paper: alike). The printed ``t % H`` lacks its ``== 0``. A bank that joins
after round 0 takes its first trained shared adapter as the personal one. The search is a (1+1) evolution strategy,
and the constants of the outer step and of the search are DiLoCo's and LoraHub's, as the paper's could not be
verified. The search reads the bank's rows without noise: under DP its result must stay at the bank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from pydantic import Field

from fedsim.core import registry, seeds
from fedsim.core.adapter import AdapterState, Tensors, map_tensors, weighted_mean
from fedsim.core.messages import BankInfo, Exchange, ServerState, TrainJob
from fedsim.strategies.base import (
    LocalContext,
    LocalRule,
    Outcome,
    Sheet,
    Strategy,
    advance,
    from_slots,
    to_slots,
    weights_of,
)

BOUND = 1.5  # of both fusion weights, as in LoraHub


class FDLoRARule(LocalRule):
    personal = True

    def __init__(self, config: FDLoRA.Config) -> None:
        self.config = config

    def finish(self, trained: AdapterState, context: LocalContext) -> Outcome:
        outcome = super().finish(trained, context)
        if context.kept and context.job.round % self.config.sync_every:
            return outcome
        return replace(outcome, kept=to_slots("personal", trained.tensors))

    def fuse(self, job: TrainJob, kept: Tensors, loss: Callable[[AdapterState], float]) -> AdapterState:
        if not kept:
            return job.adapter

        def mix(w: np.ndarray) -> AdapterState:
            mixed = map_tensors(
                lambda own, shared: float(w[0]) * own + float(w[1]) * shared,
                from_slots("personal", kept),
                job.adapter.tensors,
            )
            return job.adapter.with_tensors(mixed)

        def objective(w: np.ndarray) -> float:
            return loss(mix(w)) + self.config.fusion_penalty * float(np.abs(w).sum())

        return mix(self.search(objective, seeds.rng(job.seed, "adafusion")))

    def search(self, objective: Callable[[np.ndarray], float], rng: np.random.Generator) -> np.ndarray:
        """The best weights found: the better of three obvious ones, then a (1+1) evolution strategy (1/5 rule)."""
        starts = [np.array(w) for w in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5))]
        values = [objective(w) for w in starts]
        best, value, width = starts[int(np.argmin(values))], min(values), 0.3
        for _ in range(self.config.fusion_steps):
            trial = np.clip(best + width * rng.standard_normal(2), -BOUND, BOUND)
            found = objective(trial)
            if found < value:
                best, value, width = trial, found, width * 1.5
            else:
                width *= 1.5**-0.25
        return best


class FDLoRA(Strategy):
    class Config(registry.Config):
        outer_lr: float = Field(0.7, gt=0)
        momentum: float = Field(0.9, ge=0, lt=1)
        sync_every: int = Field(5, ge=1, description="H, in rounds")
        fusion_steps: int = Field(40, ge=0, description="evaluations of the search for the fusion weights")
        fusion_penalty: float = Field(0.05, ge=0, description="weight of |w_1| + |w_2| in the search")

    sheet = Sheet(
        title="FDLoRA (personal and shared)",
        source="2406.07925",
        trains="A, B, head",
        up="A, B, head; personal ones in round 0",
        down="A, B, head",
        exact="n/a (personal)",
        state="bank: personal adapter; server: momentum",
        sums_only=True,
        personal=True,
    )

    def rule(self) -> LocalRule:
        return FDLoRARule(self.config)

    def init(self, adapter: AdapterState, banks: Sequence[BankInfo], seed: int) -> ServerState:
        slots = to_slots("m", map_tensors(torch.zeros_like, adapter.tensors))
        return replace(super().init(adapter, banks, seed), slots=slots)

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        mean = weighted_mean([exchange.update.delta for exchange in exchanges], weights_of(exchanges))  # -Delta
        if state.round == 0:
            return advance(state, state.adapter.with_tensors(map_tensors(torch.add, mean, state.adapter.tensors)))
        lr, momentum = self.config.outer_lr, self.config.momentum
        m = map_tensors(lambda delta, old: momentum * old - delta, mean, from_slots("m", state.slots))
        moved = map_tensors(lambda x, delta, m: x - lr * (momentum * m - delta), state.adapter.tensors, mean, m)
        return advance(state, state.adapter.with_tensors(moved), slots=to_slots("m", m))
