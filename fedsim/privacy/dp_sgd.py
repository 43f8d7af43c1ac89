"""Example-level DP-SGD on LoRA at the bank (1607.00133, with the Poisson sampling and accounting of 1908.10530).

In every local step each row is drawn with probability q; its gradient over A, B and head together is clipped to one
L2 norm C = ``max_grad_norm``; N(0, (noise_multiplier C)^2) is added to every coordinate of the sum, on an empty batch
too; the sum is divided by the expected batch size. What follows (optimizer, codec, averaging) is post-processing.
Protected is one row of one bank, against everybody outside that bank; a bank's number of rows is public. Neighbours are
two data sets of one bank that differ by one row added or removed.

With ``train: {sampling: fixed}`` a step has exactly ``batch_size`` rows, drawn without replacement. Neighbours then
differ by one row replaced by another, which moves the sum by up to 2 C, and the analysis is that of 1808.00087: the
same noise has a larger epsilon. Batches of fixed size accounted as Poisson are the field's commonest error.

Laws:
    one clipped row has a norm of at most C (1 + 1e-6), and a row whose norm is not finite contributes nothing
    the noise depends on its source alone: never on the rows, their number or their order
    noise calibrated to dp_epsilon spends at most dp_epsilon over the planned steps, at each bank with its own q

Seeded noise comes from the scenario's seed: whoever knows the seed can subtract it. Epsilon speaks of the mechanism
with secret noise and real numbers, not of floating point (2112.05307).
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from fedsim.privacy.gaussian import Gaussian, GaussianTerms, clipped
from fedsim.privacy.sources import Source


class DPSGD(Gaussian):
    per_row = True
    sampled = True
    promise = "Protected: any one row of a bank, against everybody outside that bank."

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
