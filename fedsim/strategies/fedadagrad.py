"""FedAdagrad (Reddi et al., 2003.00295, Algorithm 2): FedAdam whose second moment only grows, v <- v + Delta^2.

All else as in ``fedadam``; the paper uses beta_1 = 0. Law: the step of a constant Delta shrinks like 1 / sqrt(round).

Deviations: none.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from fedsim.core import registry
from fedsim.strategies.base import Sheet
from fedsim.strategies.fedadam import FedAdam


class FedAdagrad(FedAdam):
    class Config(registry.Config):
        server_lr: float = Field(0.01, gt=0)
        beta_1: float = Field(0.0, ge=0, lt=1)
        tau: float = Field(1e-3, gt=0)
        v0: float | None = Field(None, ge=0, description="initial v; tau^2 when not given")

    sheet = Sheet(
        title="FedAdagrad (server Adagrad)",
        source="2003.00295, Algorithm 2",
        trains="A, B, head",
        up="A, B, head",
        down="A, B, head",
        exact="no (covariance)",
        state="server: m, v",
        sums_only=True,
    )

    def second_moment(self, v: Tensor, delta: Tensor) -> Tensor:
        return v + delta.square()
