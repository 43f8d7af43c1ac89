"""FedProx on LoRA (Li et al., 1812.06127, Algorithm 2): a spring from every bank's weights to the received ones.

Bank: minimise F_k(w) + mu/2 |w - w_t|^2, so the gradient gains mu (w - w_t), on A, B and head alike. Server: FedAvg.
Laws: mu = 0 is FedAvg bit for bit; as mu grows the update goes to zero; on two quadratics the fixed point moves from
the mean of the banks' optima towards the optimum of the mean.

Deviations: the term is data-free, so it is added after clip and noise; all banks do the same number of local steps
(the paper's stragglers stop early). Anchoring A and B is not anchoring their product.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from fedsim.core import registry
from fedsim.strategies.base import LocalContext, LocalRule, Sheet
from fedsim.strategies.fedavg import FedAvg


class FedProxRule(LocalRule):
    def __init__(self, mu: float) -> None:
        self.mu = mu

    def correct(self, params: dict[str, Tensor], grads: dict[str, Tensor], context: LocalContext) -> None:
        for name, grad in grads.items():
            grad += self.mu * (params[name] - context.start[name].to(grad))


class FedProx(FedAvg):
    class Config(registry.Config):
        mu: float = Field(0.01, ge=0)

    sheet = Sheet(
        title="FedProx",
        source="1812.06127, Algorithm 2",
        trains="A, B, head",
        up="A, B, head",
        down="A, B, head",
        exact="no (covariance)",
        state="none",
        sums_only=True,
    )

    def rule(self) -> LocalRule:
        return FedProxRule(self.config.mu)
