"""Bank-level DP without a trusted server: banks add discrete Gaussian noise, and only their sum is ever opened.

The distributed discrete Gaussian mechanism (Kairouz, Liu and Steinke, 2102.06387, Algorithms 1 and 2) over the masked
sums of ``secure_aggregation``. Per round each bank clips its update to C = ``max_update_norm``; rounds it at random to
multiples of a step, and again until the norm is at most (1 + SLACK) C, so that rounding cannot stretch it further
(conditional rounding, section 4.1); adds noise of ``noise_steps`` steps; and sends it under a mask. The sum of m banks,
the least that secure aggregation opens, has noise of deviation noise_multiplier C without that of any one bank: the
step is noise_multiplier C / (sqrt(m - 1) noise_steps).

Laws:
    neighbours are any two data sets of one bank, which is seen to take part: a sum moves by up to 2 (1 + SLACK) C
    a sum of n discrete Gaussians is charged as one Gaussian of deviation sqrt(n) sigma: its Renyi divergence is at most
    alpha / 2 (Delta / (sqrt(n) sigma) + tau sqrt(d))^2, Proposition 14, and tau is below 10^-1000 from 16 steps on
    what is charged is the noise of m - 1 banks, so it holds whoever drops out, and against a bank that knows its own
    banks weigh the same, and nothing is amplified by sampling: the server knows who takes part

No tight epsilon is known for sums of discrete Gaussians: the accountant is rdp. Deviation: no random rotation, which
saves bits and protects nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from fedsim.core.adapter import Tensors, flatten, unflatten
from fedsim.core.errors import PrivacyConfigError, Problem
from fedsim.core.messages import Spend
from fedsim.privacy.base import BankPlan
from fedsim.privacy.discrete import MAX_SIGMA, discrete_gaussian
from fedsim.privacy.gaussian import Gaussian, GaussianTerms, clipped_update
from fedsim.privacy.sources import Source

SLACK = 1 / 64  # by how much rounding may lengthen an update
TAIL = 12  # deviations of noise that a sum has room for; beyond, it wraps round, which reveals nothing
MAX_CODE = 2**22  # float32 carries multiples of a step exactly up to here


class DPBankDistributed(Gaussian):
    per_update = True
    needs_sum = True
    sensitivity: ClassVar[float] = 2 * (1 + SLACK)
    promise = (
        "Protected: all that a bank holds, against the server and against any one other bank, as long as the server "
        "follows the protocol of secure aggregation. Two data sets move a sum by up to 2 max_update_norm, and rounding "
        f"by a {round(1 / SLACK)}th more, so noise_multiplier is charged as less than half of what is given."
    )

    class Config(GaussianTerms):
        noise_multiplier: float | None = Field(None, gt=0, description="noise of a sum over max_update_norm")
        accountant: Literal["rdp"] = "rdp"  # type: ignore[assignment]
        max_update_norm: float = Field(1.0, gt=0, description="L2 norm of an update that enters the sum")
        noise_steps: int = Field(
            2**14, ge=16, le=MAX_SIGMA, description="deviation of one bank's noise in steps: finer costs more bits"
        )

    config: Config

    @property
    def bound(self) -> float:
        return self.config.max_update_norm

    @property
    def step(self) -> float:
        return self.noise_multiplier * self.bound / (math.sqrt(self.others) * self.config.noise_steps)

    @property
    def others(self) -> int:
        """Banks in every sum beside one that knows its own noise."""
        return max(1, self.plan.num_summed - 1)

    @property
    def longest(self) -> float:
        """The norm of a rounded update, in steps."""
        return (1 + SLACK) * self.bound / self.step

    @property
    def grid(self) -> tuple[float, int]:
        return self.step, math.ceil(self.longest) + TAIL * self.config.noise_steps

    @classmethod
    def problems(cls, config: GaussianTerms, plans: Sequence[BankPlan]) -> list[str]:
        problems = super().problems(config, plans)
        if problems or not isinstance(config, DPBankDistributed.Config):
            return problems
        code = cls(config, plans[0]).grid[1]
        if code > MAX_CODE:
            return [f"updates would reach {code} steps, and float32 counts to {MAX_CODE}; lower noise_steps"]
        return []

    def release(self, delta: Tensors, source: Source) -> dict[str, torch.Tensor]:
        vector = flatten(clipped_update(delta, self.bound)).double().numpy() / self.step
        codes = self._rounded(vector, source) + discrete_gaussian(self.config.noise_steps, len(vector), source)
        return unflatten(torch.from_numpy(codes.astype(np.float64) * self.step).float(), delta)

    def _rounded(self, vector: np.ndarray, source: Source) -> np.ndarray:
        """(d,) int64 with the mean ``vector``, but for the draws that were too long."""
        draws = np.random.Generator(np.random.PCG64(np.frombuffer(source.uniform(4).tobytes(), np.uint64)))
        self._require_room(len(vector))
        low = np.floor(vector)
        while True:
            codes: np.ndarray = (low + (draws.random(len(vector)) < vector - low)).astype(np.int64)
            if int((codes * codes).sum()) <= self.longest**2:
                return codes

    def _require_room(self, numel: int) -> None:
        """More than a third of the draws are short enough (section 4.1, beta = exp(-1/2)), or PrivacyConfigError."""
        exact = self.longest / (1 + SLACK)
        if inflated_norm(exact, numel) > self.longest:
            enough = math.ceil(self.config.noise_steps * math.sqrt(numel / (8 * SLACK)) * 1.1 / exact)
            message = (
                f"an update of {numel} values that is rounded to {self.config.noise_steps} steps of noise grows by "
                f"more than a {round(1 / SLACK)}th of its norm; use about {enough}"
            )
            raise PrivacyConfigError([Problem("", "privacy.noise_steps", message)])

    def spend(self, num_steps: int) -> Spend:
        return replace(super().spend(num_steps), noise="discrete")


def inflated_norm(norm: float, numel: int, beta: float = math.exp(-0.5)) -> float:
    """What a vector of this norm has, rounded to whole steps, with probability 1 - beta (2102.06387, equation 19)."""
    root = math.sqrt(numel)
    if beta == 0:
        return norm + root
    squared = norm**2 + numel / 4 + math.sqrt(2 * math.log(1 / beta)) * (norm + root / 2)
    return min(norm + root, math.sqrt(squared))
