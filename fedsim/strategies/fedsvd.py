"""FedSVD (Lee et al., 2505.12805): FFA-LoRA whose A is renewed from the SVD of the averaged product.

Bank: trains B, A is fixed within the round. Server: B <- sum_k p_k B_k, then B A = U S V^T;  A <- V^T, B <- U S.
Laws: the product is the exact mean of the banks' products; the SVD leaves it as it is; A has orthonormal rows. It is
a function of released values, so it costs no privacy.

Deviations: the SVD comes from QR cores, with signs fixed. The authors' code (seanie12/fed-svd) freezes the classifier
at a common random value (here: ``lora.train_head: false``). In round 0, A is PEFT's draw; where the rank is above d_in
or d_out, the rows that the SVD cannot give keep their values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedsim.core.adapter import modules, svd_of_product
from fedsim.core.messages import Exchange, ServerState
from fedsim.strategies.base import LocalRule, Sheet, TrainOnly
from fedsim.strategies.fedavg import FedAvg


class FedSVD(FedAvg):
    sheet = Sheet(
        title="FedSVD (A renewed by SVD)",
        source="2505.12805",
        trains="B, head",
        up="B, head",
        down="A, B, head",
        exact="yes",
        state="none",
        sums_only=True,
        keeps_basis=False,
        needs_factors=True,
    )

    def rule(self) -> LocalRule:
        return TrainOnly("B", "head")

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        state = super().aggregate(state, exchanges)
        adapter, renewed = state.adapter, dict[str, Tensor]()
        for module in modules(adapter.tensors):
            a, b = adapter.tensors[f"{module}.A"], adapter.tensors[f"{module}.B"]
            u, sigma, vt = svd_of_product(a, b)  # (d_out, k), (k,), (k, d_in)
            renewed[f"{module}.A"] = torch.cat([vt.to(a.dtype), a[len(sigma) :]])
            renewed[f"{module}.B"] = torch.cat([(u * sigma).to(b.dtype), torch.zeros_like(b[:, len(sigma) :])], 1)
        return replace(state, adapter=adapter.with_tensors(renewed))
