"""Fed-SB (Singhal et al., 2502.15436): B and A are fixed, a square R between them is trained.

The weight change is s B R A with orthonormal columns of B (d_out, r) and rows of A (r, d_in); R <- sum_k p_k R_k.
Laws: the product is the exact mean of the banks' products; r^2 numbers per module travel; R = 0 leaves the base model
as it is.

Deviations: the authors take B and A from the first gradient of the full layers, averaged over the clients. That
touches data and would have to be paid for under DP; here both are random and orthonormal, drawn from the run's seed,
and R starts at 0. The head, where a model has one, is trained and averaged.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedsim.core import seeds
from fedsim.core.adapter import AdapterState, modules
from fedsim.core.errors import ModelError
from fedsim.core.messages import BankInfo, ServerState
from fedsim.strategies.base import LocalRule, Sheet, TrainOnly
from fedsim.strategies.fedavg import FedAvg


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """(rows, columns) with orthonormal columns, uniformly drawn; rows >= columns."""
    q, r = torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))
    signed: Tensor = q * r.diagonal().sign()
    return signed


class FedSB(FedAvg):
    sheet = Sheet(
        title="Fed-SB (R between fixed B and A)",
        source="2502.15436",
        trains="R, head",
        up="R, head",
        down="R, head; A and B once",
        exact="yes",
        state="none",
        sums_only=True,
        needs_factors=True,
    )

    def rule(self) -> LocalRule:
        return TrainOnly("R", "head")

    def init(self, adapter: AdapterState, banks: Sequence[BankInfo], seed: int) -> ServerState:
        rank, changed = adapter.rank, dict[str, Tensor]()
        for module in modules(adapter.tensors):
            a, b = adapter.tensors[f"{module}.A"], adapter.tensors[f"{module}.B"]
            if rank > min(a.shape[1], b.shape[0]):
                raise ModelError(
                    f"fedsb: rank {rank} is larger than the smaller side of module {module!r} "
                    f"({b.shape[0]} x {a.shape[1]}); set lora.r to at most {min(a.shape[1], b.shape[0])}"
                )
            right = orthonormal(a.shape[1], rank, seeds.generator(seed, "fedsb", module, "A"))
            left = orthonormal(b.shape[0], rank, seeds.generator(seed, "fedsb", module, "B"))
            changed[f"{module}.A"] = right.T.to(a).contiguous()
            changed[f"{module}.B"] = left.to(b).contiguous()
            changed[f"{module}.R"] = a.new_zeros(rank, rank)
        return super().init(adapter.with_tensors(changed), banks, seed)
