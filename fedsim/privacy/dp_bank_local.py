"""Bank-level local DP: a bank clips its whole update and adds the noise itself, and trusts nobody.

Once per round: release = Clip(update, C) + N(0, (noise_multiplier C)^2) with C = ``max_update_norm``, over everything
that the bank sends; a method that sends more than the change of its adapter is refused. Protected is all that a bank
holds. In the local model every bank is seen to answer, so neighbours are ANY two data sets of the bank: two clipped
updates differ by up to 2 C, and noise_multiplier / 2 is charged per round, without amplification by sampling.

The mean over K banks has noise of deviation noise_multiplier C / sqrt(K): usable with very many banks only.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from fedsim.core.adapter import Tensors
from fedsim.privacy.gaussian import Gaussian, GaussianTerms, clipped_update, noisy_update
from fedsim.privacy.sources import Source


class DPBankLocal(Gaussian):
    per_update = True
    sensitivity = 2.0
    promise = (
        "Protected: all that a bank holds, against everybody outside that bank. Updates of two data sets differ by up "
        "to 2 max_update_norm, so noise_multiplier is charged as half of what is given."
    )

    class Config(GaussianTerms):
        max_update_norm: float = Field(1.0, gt=0, description="L2 norm of an update that leaves the bank")

    config: Config

    @property
    def bound(self) -> float:
        return self.config.max_update_norm

    def release(self, delta: Tensors, source: Source) -> dict[str, Tensor]:
        numel = sum(tensor.numel() for tensor in delta.values())
        return noisy_update(clipped_update(delta, self.bound), self.gaussian(numel, source))
