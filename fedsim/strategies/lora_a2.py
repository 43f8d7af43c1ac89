"""LoRA-A2 (Koo et al., 2410.22815, Algorithms 1 and 2; no code found): alternating factors, adaptive ranks.

Even rounds (0, 2, ...) train B, odd ones A. Every bank first trains all ranks for a while to score them, rank i of
module m by |dB_i| |A_i| (in A rounds |B_i| |dA_i|), starts over, trains and sends only the best r_k N of the r N
ranks of all N modules, r_k being its own rank and r the global adapter's. Server: FedAvg of what was sent; a rank
that few banks sent moves little. B learns 5 times as fast as A. Laws: no more than r_k N ranks are sent; the frozen
factor is bitwise constant within a round, which makes the product exact.

Deviations: scoring takes the first sixth of the local steps (the authors: one epoch before five), and the gradient of
the step that starts over is dropped; the local optimizer keeps its moments across. A job of fewer than six steps is
not scored first: it sends the best ranks of its plain training. The authors freeze the classifier at a common random
value (here: ``lora.train_head: false``). Their Laplace noise is not a promise over 50 rounds and is not offered.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core import registry
from fedsim.core.adapter import AdapterState, Tensors, factor, top_mask
from fedsim.core.messages import ServerState, TrainJob
from fedsim.strategies.base import LocalContext, LocalRule, Outcome, Sheet
from fedsim.strategies.fedavg import FedAvg


def chosen(values: Tensors, context: LocalContext) -> dict[str, Tensor]:
    """For each trained factor in ``values`` the mask of its best ranks, (1, r) for B and (r, 1) for A."""
    scores = {}
    for name, tensor in values.items():
        kind = factor(name)
        if kind != "head":
            other = context.start[name[:-1] + ("A" if kind == "B" else "B")]
            change = tensor.cpu() - context.start[name]
            b, a = (change, other) if kind == "B" else (other, change)
            scores[name] = b.norm(dim=0) * a.norm(dim=1)  # (r,)
    best = top_mask(scores, int(context.job.slots["rank"]) * len(scores))
    return {name: mask[None, :] if factor(name) == "B" else mask[:, None] for name, mask in best.items()}


class LoRAA2Rule(LocalRule):
    def __init__(self, config: LoRAA2.Config) -> None:
        self.config = config

    def trains(self, name: str, round_: int) -> bool:
        kind = factor(name)
        return kind in ("head", "B" if round_ % 2 == 0 else "A")

    def lr_scale(self, name: str) -> float:
        return self.config.lr_ratio if factor(name) == "B" else 1.0

    def correct(self, params: dict[str, Tensor], grads: dict[str, Tensor], context: LocalContext) -> None:
        scoring = int(self.config.scoring * context.num_steps)
        if context.step < scoring or not scoring:
            return
        if context.step == scoring:
            context.scratch.update(chosen(params, context))
        for name, param in params.items():
            start = context.start[name].to(param)
            if context.step == scoring:
                param.copy_(start)
                grads[name].zero_()
            elif name in context.scratch:
                mask = context.scratch[name].to(param.device)
                param.copy_(param.where(mask, start))
                grads[name] *= mask

    def finish(self, trained: AdapterState, context: LocalContext) -> Outcome:
        outcome = super().finish(trained, context)
        masks = context.scratch or chosen({name: trained.tensors[name] for name in outcome.delta}, context)
        delta = {name: change * masks[name] if name in masks else change for name, change in outcome.delta.items()}
        return replace(outcome, delta=delta)


class LoRAA2(FedAvg):
    class Config(registry.Config):
        lr_ratio: float = Field(5.0, gt=0, description="learning rate of B over that of A")
        scoring: float = Field(1 / 6, ge=0, lt=1, description="share of the local steps that score ranks")

    codecs = ("sparse",)
    sheet = Sheet(
        title="LoRA-A2 (alternating, adaptive ranks)",
        source="2410.22815, Algorithms 1 and 2",
        trains="chosen ranks of B in even rounds, of A in odd ones; head",
        up="chosen ranks, head",
        down="the factor that changed, head",
        exact="yes",
        state="none",
        sums_only=True,
        mixed_ranks=True,
        needs_factors=True,
    )

    def rule(self) -> LocalRule:
        return LoRAA2Rule(self.config)

    def configure(self, state: ServerState, bank: str, seed: int) -> TrainJob:
        job = super().configure(state, bank, seed)
        return replace(job, slots={"rank": torch.tensor([float(state.bank(bank).rank)])})
