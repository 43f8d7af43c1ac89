"""The loose DP-LoRA recipe (2312.17493; FinLoRA's documentation): the BATCH gradient is clipped, not its rows.

Per local step: g = Clip(mean gradient of the batch, C) + N(0, (noise_multiplier C)^2), then the optimizer. No gradient
of a row is bounded: one row can turn the whole clipped gradient round, so it moves a release by up to 2 C, and
averaging over the batch wins nothing. What can be promised is charged, which is not what those papers print:
noise_multiplier / 2 per step, without amplification by sampling (their batches are shuffled, not Poisson). So T steps
with sigma = 1 are mu-GDP with mu = 2 sqrt(T): ten steps have epsilon 46.2 at delta 1e-5; the documentation says 1.

Deviation: A, B and head are clipped together to one C; clipping each of them to C would cost another sqrt(2) or more.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from fedsim.privacy.gaussian import Gaussian, GaussianTerms, clipped
from fedsim.privacy.sources import Source


class BatchClipGaussian(Gaussian):
    per_batch = True
    sensitivity = 2.0
    promise = (
        "Loose: the batch's gradient is clipped, not its rows', so one row moves it by up to 2 max_grad_norm: "
        "noise_multiplier is charged as half of what is given, without amplification by sampling."
    )

    class Config(GaussianTerms):
        max_grad_norm: float = Field(1.0, gt=0)  # C

    config: Config

    @property
    def bound(self) -> float:
        return self.config.max_grad_norm

    def weights(self, norms: Tensor) -> Tensor:
        return clipped(norms, self.bound)

    def noise(self, numel: int, source: Source) -> Tensor:
        return self.gaussian(numel, source)
