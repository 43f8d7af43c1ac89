"""Bank-level central DP, DP-FedAvg (McMahan et al., 1710.06963, Algorithm 1): the server is trusted and adds the noise.

Per round: banks are drawn independently with probability q = client_fraction (all of them for 1), or, with ``cohort:
fixed``, round(q K) of them without replacement; each clips its whole update to C = ``max_update_norm``, and the server
again, since a codec may lengthen it; then mean = (sum of clipped updates + N(0, (noise_multiplier C)^2)) / (q K), and
the method sees this mean alone. Protected is all that a bank holds against everybody but the server, in particular
against the other banks. Neighbours are two sets of banks that differ by one bank taken away; with cohorts of fixed
size, whose analysis (1808.00087) knows no other, by one bank replaced by another, which moves the sum by up to 2 C.

Laws:
    banks weigh the same whatever their number of rows: a weight n_k / n would let one bank move the mean by more
    the divisor is the expected number of banks, and a round in which nobody was drawn is noised and charged
    every bank is charged every round, drawn or not; amplification holds while the server keeps to itself who took part

Deviation: the method's server half sees one noisy exchange for the round, so methods that need every bank's own update
are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.adapter import Tensors, flatten, unflatten
from fedsim.core.messages import Exchange, Spend
from fedsim.core.sections import Sampling
from fedsim.privacy.base import BankPlan, Curator, Mechanism
from fedsim.privacy.gaussian import Gaussian, GaussianTerms, Part, clipped_update
from fedsim.privacy.sources import Keyed, Seeded, Source


class DPBankCentral(Gaussian):
    per_update = True
    central = True
    bounds_rows = False
    promise = (
        "Protected: all that a bank holds, against everybody but the server, which is trusted with clipped updates. "
        "Banks weigh the same, whatever their number of rows."
    )

    class Config(GaussianTerms):
        max_update_norm: float = Field(1.0, gt=0, description="L2 norm of an update that enters the mean")
        cohort: Sampling = Field(
            "poisson", description="poisson: every bank by itself; fixed: so many banks, at the price of more noise"
        )

    config: Config

    @property
    def bound(self) -> float:
        return self.config.max_update_norm

    @classmethod
    def part(cls, config: Any, plan: BankPlan) -> Part:
        if getattr(config, "cohort", "poisson") == "fixed":
            return Part(2.0, fixed_size(plan) / plan.num_banks, "fixed")
        return Part(1.0, plan.bank_rate)

    @classmethod
    def curator(cls, mechanisms: Mapping[str, Mechanism]) -> Curator:
        (mechanism, *_) = mechanisms.values()
        if not isinstance(mechanism, DPBankCentral):
            raise TypeError(f"{type(mechanism).__name__} has another curator")
        return BankCurator(mechanism)

    def release(self, delta: Tensors, source: Source) -> dict[str, torch.Tensor]:
        return clipped_update(delta, self.bound)


def fixed_size(plan: BankPlan) -> int:
    """Banks in a round of fixed size."""
    return max(1, round(plan.bank_rate * plan.num_banks))


def numel(exchange: Exchange) -> int:
    """Values of an update."""
    return sum(tensor.numel() for tensor in exchange.update.delta.values())


class BankCurator(Curator):
    """All banks have the same noise and rate, so one bank's mechanism stands for all."""

    def __init__(self, mechanism: DPBankCentral) -> None:
        self.mechanism = mechanism
        self.part = mechanism.part(mechanism.config, mechanism.plan)
        self.expected_banks = self.part.sample_rate * mechanism.plan.num_banks

    def cohort(self, banks: Sequence[str], seed: int, round_: int) -> list[str]:
        key = self.mechanism.key
        source: Source = Seeded(seed, "cohort", round_) if key is None else Keyed(key, "cohort", round_)
        draws = source.uniform(len(banks))
        if self.part.sampling == "fixed":
            return [banks[index] for index in sorted(draws.argsort()[: fixed_size(self.mechanism.plan)])]
        return [bank for bank, draw in zip(banks, draws, strict=True) if draw < self.part.sample_rate]

    def release(self, exchanges: Sequence[Exchange], blank: Exchange, slots: Tensors) -> tuple[Exchange, Tensors]:
        noise = self.mechanism.source(blank.job, "central noise").normal(numel(blank)) * self.mechanism.noise_deviation
        return self.noisy_mean(exchanges, blank, self.mechanism.bound, noise), {}

    def noisy_mean(self, exchanges: Sequence[Exchange], blank: Exchange, bound: float, noise: Tensor) -> Exchange:
        """An exchange whose update is (sum of updates clipped to ``bound`` + noise) / expected banks."""
        total = flatten(blank.update.delta).double()
        for exchange in exchanges:
            total += flatten(clipped_update(exchange.update.delta, bound)).double()
        total += noise
        mean = unflatten((total / self.expected_banks).float(), blank.update.delta)
        return replace(blank, update=replace(blank.update, delta=mean))

    def spend(self) -> Spend:
        return self.mechanism.spend(1)
