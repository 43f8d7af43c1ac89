"""No privacy: every row counts in full, nothing is added, and epsilon is infinite."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.core.messages import Spend
from fedsim.privacy.base import Mechanism


class NoPrivacy(Mechanism):
    def weights(self, norms: Tensor) -> Tensor:
        return torch.isfinite(norms).to(norms.dtype)

    def noise(self, numel: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(numel)

    def spend(self, num_steps: int) -> Spend | None:
        return None
