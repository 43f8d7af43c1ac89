"""FLASC (Kuo et al., 2406.05233; code imkevinkuo/flasc, train_sparse_lora_dp.py): sparse messages, dense training.

P is the vector of all trained values. Server: sends P masked to its ``density_down`` N largest magnitudes. Bank:
trains all of it from the masked start and sends the ``density_up`` N largest changes. Server: g = -mean of the
changes, banks weighing alike, and one step of SGD or AdamW on the dense P. Laws: densities of 1 with SGD at server_lr
= 1 are FedAvg with equal weights; exactly k values are chosen, ties by the lower index; the mask follows from P alone.

Baselines: ``client_freeze`` trains only what was sent (sparse training); ``server_freeze`` also fixes the mask after
round 0 (SparseAdapter); ``client_freeze`` with ``density_decay`` < 1 prunes step by step (Adapter-LTH); ``freeze_a``
trains B alone. ``tiers``: bank i has density tiers[i mod n] both ways (heterogeneous banks).

Deviations: round 0 of both freezing modes is dense, as B = 0 would never enter a mask. The evaluated model is P under
its own mask, not the last round's. Noise belongs to the mechanism. AdamW's decay also shrinks values no bank changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core import registry
from fedsim.core.adapter import AdapterState, Tensors, factor, map_tensors, top_mask, weighted_mean
from fedsim.core.messages import Exchange, ServerState, TrainJob
from fedsim.strategies.base import LocalContext, LocalRule, Outcome, Sheet, Strategy, advance, from_slots, to_slots

BETA_1, BETA_2, EPS = 0.9, 0.999, 1e-8  # PyTorch's AdamW
Density = Annotated[float, Field(gt=0, le=1)]


def largest(tensors: Tensors, density: float) -> dict[str, Tensor]:
    """The mask of the floor(density N) largest magnitudes."""
    return top_mask(tensors, int(density * sum(tensor.numel() for tensor in tensors.values())))


def masked(tensors: Tensors, mask: Tensors) -> dict[str, Tensor]:  # never -0.0: not 0.0 to the bit, so sent again
    return {name: tensor.where(mask[name] != 0, 0) if name in mask else tensor for name, tensor in tensors.items()}


class FLASCRule(LocalRule):
    def __init__(self, config: FLASC.Config) -> None:
        self.config = config

    def trains(self, name: str, round_: int) -> bool:
        return not (self.config.freeze_a and factor(name) == "A")

    def finish(self, trained: AdapterState, context: LocalContext) -> Outcome:
        delta = super().finish(trained, context).delta
        mask = largest(delta, self.config.density("up", context.job.round, context.job.slots))
        return Outcome(delta=masked(delta, mask), slots={}, kept=context.kept)


class FreezingRule(FLASCRule):
    """Trains only what was sent: the bank finds the server's mask again in the values it received."""

    def support(self, job: TrainJob) -> Tensors | None:
        received = {name: tensor for name, tensor in job.adapter.tensors.items() if self.trains(name, job.round)}
        return largest(received, self.config.density("down", job.round, job.slots)) if job.round else None

    def correct(self, params: dict[str, Tensor], grads: dict[str, Tensor], context: LocalContext) -> None:
        if not context.scratch:
            context.scratch.update(self.support(context.job) or {})
        for name, mask in context.scratch.items():
            grads[name] *= mask.to(grads[name])


class FLASC(Strategy):
    class Config(registry.Config):
        density_down: Density = 0.25
        density_up: Density = 0.25
        mode: Literal["dense", "client_freeze", "server_freeze"] = "dense"
        density_decay: Density = 1.0
        decay_every: int = Field(1, ge=1, description="rounds between two decays of both densities")
        freeze_a: bool = False
        tiers: tuple[Density, ...] = ()
        server_optimizer: Literal["sgd", "adamw"] = "adamw"
        server_lr: float = Field(1e-3, gt=0)
        weight_decay: float = Field(0.01, ge=0, description="of AdamW")

        def density(self, way: Literal["down", "up"], round_: int, slots: Tensors) -> float:
            """The share of values that travel; a bank's tier is in its job's slots."""
            full = self.density_down if way == "down" else self.density_up
            full = float(slots["density"]) if "density" in slots else full
            return full * self.density_decay ** (round_ // self.decay_every)

    codecs = ("sparse",)
    sheet = Sheet(
        title="FLASC (sparse messages)",
        source="2406.05233",
        trains="A, B, head",
        up="largest changes of A, B, head",
        down="largest values of A, B, head",
        exact="no (covariance)",
        state="server: moments of AdamW",
        sums_only=True,
        equal_weights=True,
    )

    def rule(self) -> LocalRule:
        return FLASCRule(self.config) if self.config.mode == "dense" else FreezingRule(self.config)

    def trained(self, state: ServerState) -> dict[str, Tensor]:
        """P by name."""
        trains = self.rule().trains
        return {name: tensor for name, tensor in state.adapter.tensors.items() if trains(name, state.round)}

    def sent(self, state: ServerState, slots: Tensors) -> AdapterState:
        """What a bank with these job slots downloads in this round."""
        if self.config.mode != "dense" and state.round == 0:
            return state.adapter
        left = masked(self.trained(state), from_slots("mask", state.slots))
        return state.adapter.with_tensors(masked(left, largest(left, self.config.density("down", state.round, slots))))

    def configure(self, state: ServerState, bank: str, seed: int) -> TrainJob:
        tiers, index = self.config.tiers, [info.name for info in state.banks].index(bank)
        slots = {"density": torch.tensor([tiers[index % len(tiers)]])} if tiers else {}
        return replace(super().configure(state, bank, seed), adapter=self.sent(state, slots), slots=slots)

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        mean = weighted_mean([exchange.update.delta for exchange in exchanges], [1.0] * len(exchanges))
        if self.config.server_optimizer == "sgd":
            moved = map_tensors(lambda delta, x: x + self.config.server_lr * delta, mean, self.trained(state))
            slots = dict(state.slots)
        else:
            moved, slots = self.adamw(state, mean)
        if self.config.mode == "server_freeze" and state.round == 0:
            mask = largest(moved, self.config.density_down)
            slots |= to_slots("mask", map_tensors(lambda chosen, x: chosen.to(x), mask, moved))
        return advance(state, state.adapter.with_tensors(moved), slots=slots)

    def adamw(self, state: ServerState, mean: Tensors) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(P after one step, all slots). The gradient is minus the mean change; bias correction is in lr and eps."""
        lr, shrink = self.config.server_lr, 1 - self.config.server_lr * self.config.weight_decay
        debias_1, debias_2 = 1 - BETA_1 ** (state.round + 1), math.sqrt(1 - BETA_2 ** (state.round + 1))
        lr, eps = lr * debias_2 / debias_1, EPS * debias_2
        zeros = map_tensors(torch.zeros_like, mean)
        old_m, old_v = (from_slots(slot, state.slots) or zeros for slot in "mv")
        m = map_tensors(lambda delta, old: BETA_1 * old - (1 - BETA_1) * delta, mean, old_m)
        v = map_tensors(lambda delta, old: BETA_2 * old + (1 - BETA_2) * delta.square(), mean, old_v)
        moved = map_tensors(lambda x, m, v: shrink * x - lr * m / (v.sqrt() + eps), self.trained(state), m, v)
        return moved, {**state.slots, **to_slots("m", m), **to_slots("v", v)}

    def serve(self, state: ServerState) -> AdapterState:
        return self.sent(state, {})
