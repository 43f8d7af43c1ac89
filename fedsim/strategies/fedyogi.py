"""FedYogi (Reddi et al., 2003.00295, Algorithm 2): FedAdam whose second moment grows and shrinks by a bounded amount.

    v <- v - (1 - beta_2) Delta^2 sign(v - Delta^2)

and all else as in ``fedadam``. Law: v changes by at most (1 - beta_2) Delta^2 in a round.

Deviations: none.
"""

from __future__ import annotations

from torch import Tensor

from fedsim.strategies.base import Sheet
from fedsim.strategies.fedadam import FedAdam


class FedYogi(FedAdam):
    sheet = Sheet(
        title="FedYogi (server Yogi)",
        source="2003.00295, Algorithm 2",
        trains="A, B, head",
        up="A, B, head",
        down="A, B, head",
        exact="no (covariance)",
        state="server: m, v",
        sums_only=True,
    )

    def second_moment(self, v: Tensor, delta: Tensor) -> Tensor:
        beta_2: float = self.config.beta_2
        square = delta.square()
        return v - (1 - beta_2) * square * (v - square).sign()
