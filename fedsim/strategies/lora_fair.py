"""LoRA-FAIR (Bian et al., 2411.14961): FedAvg of the factors, then B is moved towards the mean product.

The server solves min over D of S(sum_k p_k B_k A_k, (B + D) A) + lambda |D| and sends B + D with A. With a squared
Frobenius distance and penalty the answer is closed: D = (sum_k p_k B_k A_k - B A) A^T (A A^T + lambda I)^-1. Laws:
the gradient at D is zero; identical banks give D = 0; lambda to infinity is FedAvg; the remaining error grows with
lambda; as lambda goes to 0 what remains is the part outside the row space of A.

Deviations: the closed form instead of the authors' cosine-based S and its SGD. ``lam`` (lambda) is taken relative to
the scale of A A^T (its trace / r), so that the same value means the same for every layer and its inverse cannot blow
up the noise of DP. The products are never formed: (B_k A_k) A^T = B_k (A_k A^T).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core import registry
from fedsim.core.adapter import AdapterState, Tensors, modules, weighted_mean
from fedsim.core.messages import Exchange, ServerState
from fedsim.strategies.base import Sheet, Strategy, advance, returned, weights_of


def correction(
    banks: Sequence[AdapterState], weights: Sequence[float], mean: Tensors, module: str, lam: float
) -> Tensor:
    """D for one module, float64, (d_out, r)."""
    a, b = mean[f"{module}.A"].double(), mean[f"{module}.B"].double()
    gram = a @ a.T  # (r, r)
    missed = -b @ gram
    for bank, weight in zip(banks, weights, strict=True):
        missed += weight * bank.tensors[f"{module}.B"].double() @ (bank.tensors[f"{module}.A"].double() @ a.T)
    penalty = lam * gram.trace() / len(gram) * torch.eye(len(gram), dtype=torch.float64)
    solution: Tensor = torch.linalg.solve(gram + penalty, missed, left=False)
    return solution


class LoRAFAIR(Strategy):
    class Config(registry.Config):
        lam: float = Field(0.01, gt=0)

    sheet = Sheet(
        title="LoRA-FAIR (FedAvg, B corrected)",
        source="2411.14961",
        trains="A, B, head",
        up="A, B, head",
        down="A, B, head",
        exact="nearly (in the row space of A)",
        state="none",
        needs_factors=True,
    )

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        weights = weights_of(exchanges)
        banks = [returned(exchange) for exchange in exchanges]
        mean = weighted_mean([bank.tensors for bank in banks], weights)
        for module in modules(mean):
            b = mean[f"{module}.B"]
            mean[f"{module}.B"] = (b + correction(banks, weights, mean, module, self.config.lam)).to(b.dtype)
        return advance(state, state.adapter.with_tensors(mean))
