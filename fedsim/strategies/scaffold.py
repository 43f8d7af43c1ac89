"""SCAFFOLD on LoRA (Karimireddy et al., 1910.06378, Algorithm 1, option II): control variates against client drift.

Bank: K steps y <- y - lr (g(y) - c_k + c) from y = x; then c_k+ = c_k - c + (x - y) / (K lr). It sends y - x and c_k+
- c_k. Server: x <- x + server_lr sum_k p_k (y_k - x);  c <- c + sum_k (n_k / n) (c_k+ - c_k), n over all banks. All
controls start at zero. Laws: c is the mean of the banks' controls at all times; the first round is FedAvg; on
quadratics the fixed point is the optimum of the mean, whatever the number of local steps.

Deviations: banks weigh n_k, in x and in c alike, where the paper weighs them equally: equal banks give the paper's
rule, unequal ones the same objective as every other method here. Option I would need one more pass over the data.
Option II holds for plain SGD only: momentum beta makes it too large by 1 / (1 - beta), and Adam breaks it. The
controls that are sent are a function of the released update, so noise per step covers them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core import registry
from fedsim.core.adapter import AdapterState, map_tensors, weighted_mean
from fedsim.core.messages import BankInfo, Exchange, ServerState, TrainJob
from fedsim.strategies.base import LocalContext, LocalRule, Outcome, Sheet, Strategy, advance, to_slots, weights_of


class ScaffoldRule(LocalRule):
    def correct(self, params: dict[str, Tensor], grads: dict[str, Tensor], context: LocalContext) -> None:
        for name, grad in grads.items():
            grad += context.job.slots[f"control/{name}"].to(grad)
            if context.kept:
                grad -= context.kept[f"control/{name}"].to(grad)

    def finish(self, trained: AdapterState, context: LocalContext) -> Outcome:
        delta = super().finish(trained, context).delta
        length = context.num_steps * context.lr
        control = {name: context.job.slots[name] for name in to_slots("control", delta)}
        change = map_tensors(lambda step, c: -step / length - c, to_slots("control", delta), control)
        kept = map_tensors(torch.add, change, context.kept) if context.kept else change
        return Outcome(delta=delta, slots=change, kept=kept)


class Scaffold(Strategy):
    class Config(registry.Config):
        server_lr: float = Field(1.0, gt=0)

    sheet = Sheet(
        title="SCAFFOLD",
        source="1910.06378, Algorithm 1 (option II)",
        trains="A, B, head",
        up="A, B, head and as many controls",
        down="A, B, head and as many controls",
        exact="no (covariance)",
        state="bank: its control; server: mean control",
        sums_only=True,
        sends_slots=True,
        needs_sgd=True,
    )

    def rule(self) -> LocalRule:
        return ScaffoldRule()

    def init(self, adapter: AdapterState, banks: Sequence[BankInfo], seed: int) -> ServerState:
        slots = to_slots("control", map_tensors(torch.zeros_like, adapter.tensors))
        return replace(super().init(adapter, banks, seed), slots=slots)

    def configure(self, state: ServerState, bank: str, seed: int) -> TrainJob:
        return replace(super().configure(state, bank, seed), slots=state.slots)

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        weights, server_lr = weights_of(exchanges), self.config.server_lr
        delta = weighted_mean([exchange.update.delta for exchange in exchanges], weights)
        change = weighted_mean([exchange.update.slots for exchange in exchanges], weights)
        present = sum(exchange.update.num_examples for exchange in exchanges)
        share = present / sum(bank.num_examples for bank in state.banks)
        moved = map_tensors(lambda step, x: x + server_lr * step, delta, state.adapter.tensors)
        slots = map_tensors(lambda step, c: c + share * step, change, state.slots)
        return advance(state, state.adapter.with_tensors(moved), slots=slots)
