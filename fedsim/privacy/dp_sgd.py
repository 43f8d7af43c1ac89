"""Example-level DP-SGD on LoRA at the bank (1607.00133, with the Poisson sampling and accounting of 1908.10530).

In every local step each row is drawn with probability q; its gradient over A, B and head together is clipped to one
L2 norm C = ``max_grad_norm``; N(0, (noise_multiplier C)^2) is added to every coordinate of the sum, on an empty batch
too; the sum is divided by the expected batch size. What follows (optimizer, codec, averaging) is post-processing.
Protected is one row of one bank, against everybody outside that bank; a bank's number of rows is public.

Laws:
    one clipped row has a norm of at most C (1 + 1e-6), and a row whose norm is not finite contributes nothing
    the noise depends on the generator alone: never on the rows, their number or their order
    noise calibrated to dp_epsilon spends at most dp_epsilon over the planned steps, at each bank with its own q

A simulation's noise comes from the scenario's seed: whoever knows the seed can subtract it. Epsilon speaks of the
mechanism with secret noise and real numbers, not of floating point (2112.05307).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedsim.core.errors import PrivacyConfigError
from fedsim.core.messages import Spend
from fedsim.privacy.accounting import calibrate
from fedsim.privacy.base import BankPlan, Mechanism, Terms
from fedsim.privacy.planning import delta_problems


class DPSGD(Mechanism):
    per_row = True

    class Config(Terms):
        noise_multiplier: float | None = Field(None, ge=0)  # sigma: noise deviation over max_grad_norm
        max_grad_norm: float = Field(1.0, gt=0)  # C

        @model_validator(mode="after")
        def _noise_or_target(self) -> DPSGD.Config:
            if self.noise_multiplier is None and self.dp_epsilon is None:
                raise ValueError(
                    "give noise_multiplier (epsilon is reported), dp_epsilon (the noise is calibrated to it), "
                    "or both (dp_epsilon is a cap)"
                )
            return self

    config: Config

    def __init__(self, config: Config, plan: BankPlan) -> None:
        super().__init__(config, plan)
        self.noise_multiplier = _noise_multiplier(config, plan)

    @classmethod
    def problems(cls, config: Config, plans: Sequence[BankPlan]) -> list[str]:
        problems = delta_problems(config.dp_delta, plans)
        for plan in plans:
            try:
                _noise_multiplier(config, plan)  # cached: the mechanism of this bank asks the same
            except PrivacyConfigError as error:
                return [*problems, f"at {plan.name}: dp_epsilon {error.problems[0].message}"]  # the same remedy for all
        return problems

    def weights(self, norms: Tensor) -> Tensor:
        weights = (self.config.max_grad_norm / norms).clamp(max=1)  # a norm of 0 gives inf, hence 1
        return weights.where(torch.isfinite(norms), 0)

    def noise(self, numel: int, generator: torch.Generator) -> Tensor:
        # Drawn in float64: torch's float32 normals end at 5.8 deviations, which a large adapter reaches within a run.
        noise = torch.randn(numel, generator=generator, dtype=torch.float64)
        return (noise * (self.noise_multiplier * self.config.max_grad_norm)).float()

    def spend(self, num_steps: int) -> Spend:
        return Spend(self.noise_multiplier, self.plan.sample_rate, num_steps)


def _noise_multiplier(config: DPSGD.Config, plan: BankPlan) -> float:
    if config.noise_multiplier is not None:
        return config.noise_multiplier
    if config.dp_epsilon is None:
        raise ValueError("neither noise_multiplier nor dp_epsilon")
    return calibrate(config.dp_epsilon, config.dp_delta, plan.sample_rate, plan.num_steps, config.accountant)
