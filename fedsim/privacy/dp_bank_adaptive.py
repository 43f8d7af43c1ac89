"""Bank-level central DP with a clipping bound that follows the updates (Andrew et al., 1905.03871, Algorithm 1).

Like ``dp_bank_central``, but C_t moves towards the ``quantile`` gamma of the updates' norms: with b_k = 1 where bank
k's update needs no clipping and m the expected number of banks,

    b = (sum_k (b_k - 1/2) + N(0, count_noise^2)) / m + 1/2        C_{t+1} = C_t exp(-bound_lr (b - gamma)).

A round's mean and count together cost ``noise_multiplier`` z: the mean's noise is z_delta = (z^-2 - (2
count_noise)^-2)^-1/2 bounds. Infeasible where z >= 2 count_noise, which is refused.

Laws: updates are clipped to and noised with the same C_t, that of the round; from C_0 = 0.1 and norms of 1, without
noise, C grows by e^0.1 a round up to 1.1023 and then turns round it.

Deviation: the trusted server counts and clips, as its bound moves; what a bank sends is not clipped before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from pydantic import Field

from fedsim.core.adapter import Tensors, norm
from fedsim.core.messages import Exchange
from fedsim.privacy.base import BankPlan, Curator, Mechanism
from fedsim.privacy.dp_bank_central import BankCurator, DPBankCentral, numel
from fedsim.privacy.gaussian import GaussianTerms
from fedsim.privacy.sources import Source

BOUND = "privacy/bound"  # C_t among the slots of the server's state


class DPBankAdaptive(DPBankCentral):
    promise = (
        "Protected: all that a bank holds, against everybody but the server, which is trusted with whole updates. "
        "Banks weigh the same, whatever their number of rows; the noisy count that moves the bound is charged."
    )

    class Config(GaussianTerms):
        max_update_norm: float = Field(0.1, gt=0, description="the bound of the first round, C_0")
        quantile: float = Field(0.5, ge=0, le=1, description="gamma: share of the updates that is to stay unclipped")
        bound_lr: float = Field(0.2, gt=0, description="eta_C: rate at which the bound moves")
        count_noise: float | None = Field(
            None, gt=0, description="sigma_b: noise of the count of unclipped updates; null: a twentieth of the banks"
        )

    config: Config  # type: ignore[assignment]

    @classmethod
    def problems(cls, config: GaussianTerms, plans: Sequence[BankPlan]) -> list[str]:
        problems = super().problems(config, plans)
        if problems or not isinstance(config, DPBankAdaptive.Config):
            return problems
        try:
            mean_noise(cls.noise_for(config, plans[0]), count_noise_of(config, plans[0]))
        except ValueError as error:
            return [str(error)]
        return []

    @property
    def clips_to(self) -> float | None:
        return None  # the bound moves

    @classmethod
    def curator(cls, mechanisms: Mapping[str, Mechanism]) -> Curator:
        (mechanism, *_) = mechanisms.values()
        if not isinstance(mechanism, DPBankAdaptive):
            raise TypeError(f"{type(mechanism).__name__} has another curator")
        return AdaptiveCurator(mechanism)

    def release(self, delta: Tensors, source: Source) -> dict[str, torch.Tensor]:
        return dict(delta)


def count_noise_of(config: DPBankAdaptive.Config, plan: BankPlan) -> float:
    """sigma_b."""
    return plan.bank_rate * plan.num_banks / 20 if config.count_noise is None else config.count_noise


def mean_noise(noise_multiplier: float, count_noise: float) -> float:
    """z_delta: what is left for the mean (1905.03871, Theorem 1). ValueError when the count uses up the budget."""
    if noise_multiplier == 0:
        return 0.0
    if noise_multiplier >= 2 * count_noise:
        raise ValueError(
            f"count_noise {count_noise:g} leaves nothing of noise_multiplier {noise_multiplier:.4g} for the mean: it "
            "must be more than half of it; set count_noise, or have more banks in a round"
        )
    return 1 / math.sqrt(noise_multiplier**-2 - (2 * count_noise) ** -2)


class AdaptiveCurator(BankCurator):
    def __init__(self, mechanism: DPBankAdaptive) -> None:
        super().__init__(mechanism)
        self.config = mechanism.config
        self.count_noise = count_noise_of(mechanism.config, mechanism.plan)
        self.mean_noise = mean_noise(mechanism.noise_multiplier, self.count_noise)

    def release(self, exchanges: Sequence[Exchange], blank: Exchange, slots: Tensors) -> tuple[Exchange, Tensors]:
        bound = float(slots[BOUND]) if BOUND in slots else self.config.max_update_norm
        noise = self.mechanism.source(blank.job, "central noise").normal(numel(blank)) * (self.mean_noise * bound)
        noisy = self.noisy_mean(exchanges, blank, bound, noise)
        count = math.fsum((norm(exchange.update.delta) <= bound) - 0.5 for exchange in exchanges)
        if self.mechanism.noise_multiplier:
            count += self.count_noise * float(self.mechanism.source(blank.job, "count noise").normal(1))
        share = count / self.expected_banks + 0.5
        moved = bound * math.exp(-self.config.bound_lr * (share - self.config.quantile))
        return noisy, {BOUND: torch.tensor([moved], dtype=torch.float64)}
