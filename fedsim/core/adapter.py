"""The LoRA adapter as a value, and the algebra that every method is built from.

Names in a tensor mapping:

    "<module>.A"  (rank, d_in)      "<module>.B"  (d_out, rank)      "<module>.R"  (rank, rank), Fed-SB only
    "head.<module>.<parameter>"     a task head (or norm) trained as it is

The weight change of a module is ``scaling * B @ A`` (``scaling * B @ R @ A`` with an R). Tensors are float32 on
the CPU. Sums are taken in the order given with float64 accumulators; callers give bank order, never arrival order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class AdapterState:
    """Tensors of one adapter. ``scaling`` is lora_alpha / r, or lora_alpha / sqrt(r) for rsLoRA: banks may differ."""

    tensors: Tensors
    rank: int
    scaling: float

    def with_tensors(self, changed: Tensors) -> AdapterState:
        """The same adapter with some tensors replaced."""
        return replace(self, tensors={**self.tensors, **changed})


def modules(tensors: Tensors) -> list[str]:
    """Names of the adapted modules, sorted."""
    return sorted(name[:-2] for name in tensors if name.endswith(".A") and not name.startswith("head."))


def factor(name: str) -> str:
    """``"A"``, ``"B"``, ``"R"`` or ``"head"``: what kind of tensor a name stands for."""
    return "head" if name.startswith("head.") else name.rsplit(".", 1)[1]


def product(adapter: AdapterState, module: str) -> Tensor:
    """The dense weight change of one module, float64, (d_out, d_in). For tests and small layers."""
    a, b = adapter.tensors[f"{module}.A"].double(), adapter.tensors[f"{module}.B"].double()
    r = adapter.tensors.get(f"{module}.R")
    return adapter.scaling * (b @ a if r is None else b @ r.double() @ a)


def map_tensors(function: Callable[..., Tensor], first: Tensors, *others: Tensors) -> dict[str, Tensor]:
    """``function`` over tensors of the same name; every mapping must hold the names of the first."""
    return {name: function(tensor, *(other[name] for other in others)) for name, tensor in first.items()}


def add(left: Tensors, right: Tensors) -> dict[str, Tensor]:
    """left + right, for the names of ``right`` only where present; names missing on the right are kept."""
    return {name: tensor + right[name] if name in right else tensor for name, tensor in left.items()}


def subtract(left: Tensors, right: Tensors) -> dict[str, Tensor]:
    """left - right over the names of ``left``."""
    return map_tensors(torch.sub, left, right)


def normalised(weights: Sequence[float]) -> list[float]:
    """Weights divided by their sum. ValueError when the sum is not positive."""
    total = math.fsum(weights)
    if not total > 0:
        raise ValueError(f"weights must have a positive sum (got {total})")
    return [weight / total for weight in weights]


def weighted_mean(items: Sequence[Tensors], weights: Sequence[float]) -> dict[str, Tensor]:
    """Mean of each tensor over the items, weights normalised to 1; float64 inside, float32 out. FedIT, eq. of 2.1."""
    if len(items) != len(weights) or not items:
        raise ValueError(f"{len(items)} items, {len(weights)} weights")
    shares = normalised(weights)
    mean: dict[str, Tensor] = {}
    for name, first in items[0].items():
        total = torch.zeros(first.shape, dtype=torch.float64)
        for item, share in zip(items, shares, strict=True):
            total += share * item[name].double()
        mean[name] = total.to(first.dtype)
    return mean


def stack(adapters: Sequence[AdapterState], weights: Sequence[float]) -> AdapterState:
    """The exact weighted sum of products as one adapter of rank sum(r_k) and scaling 1 (FLoRA, 2409.05976, eq. 4).

    Weight and scaling are folded into A once. Ranks and scalings may differ; weights are used as given. Only the
    adapted modules are stacked: a head has no product and is left to the caller.
    """
    tensors: dict[str, Tensor] = {}
    for module in modules(adapters[0].tensors):
        rows, columns = [], []
        for adapter, weight in zip(adapters, weights, strict=True):
            a, b = adapter.tensors[f"{module}.A"].double(), adapter.tensors[f"{module}.B"].double()
            rows.append(weight * adapter.scaling * a)
            columns.append(b)
        tensors[f"{module}.A"] = torch.cat(rows, 0).float()  # (sum r_k, d_in)
        tensors[f"{module}.B"] = torch.cat(columns, 1).float()  # (d_out, sum r_k)
    return AdapterState(tensors, sum(adapter.rank for adapter in adapters), 1.0)


def svd_of_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD (u, sigma, vt) of b @ a in float64 from QR cores, never forming (d_out, d_in).

    The largest entry of each u column is positive, so that the factors do not depend on LAPACK's choice of sign.
    """
    qb, rb = torch.linalg.qr(b.double())  # (d_out, k), (k, r)
    qa, ra = torch.linalg.qr(a.double().T)  # (d_in, k), (k, r)
    u, sigma, vt = torch.linalg.svd(rb @ ra.T, full_matrices=False)
    u, vt = qb @ u, vt @ qa.T
    sign = torch.sign(u.gather(0, u.abs().argmax(0, keepdim=True)))
    sign = torch.where(sign == 0, torch.ones_like(sign), sign)  # (1, k)
    return u * sign, sigma, vt * sign.T


def truncate(adapter: AdapterState, rank: int, scaling: float) -> AdapterState:
    """The best rank-``rank`` approximation of every product (Eckart-Young), singular values in B (FlexLoRA, 2402.11505).

    Directions beyond the numerical rank are zero in B and in A. Head tensors are copied.
    """
    tensors = {name: tensor for name, tensor in adapter.tensors.items() if factor(name) == "head"}
    for module in modules(adapter.tensors):
        a, b = adapter.tensors[f"{module}.A"], adapter.tensors[f"{module}.B"]
        u, sigma, vt = svd_of_product(a, b)
        found = min(rank, int((sigma > sigma[0] * 1e-12).sum())) if sigma.numel() and sigma[0] > 0 else 0
        new_a, new_b = torch.zeros(rank, a.shape[1]), torch.zeros(b.shape[0], rank)
        new_a[:found] = vt[:found].float()
        new_b[:, :found] = (u[:, :found] * sigma[:found] * (adapter.scaling / scaling)).float()
        tensors[f"{module}.A"], tensors[f"{module}.B"] = new_a, new_b
    return AdapterState(tensors, rank, scaling)


def leading(adapter: AdapterState, rank: int, scaling: float | None = None) -> AdapterState:
    """The first ``rank`` rows of every A and columns of every B (HetLoRA's truncation, 2401.06432). Head copied."""
    cut = {
        "A": lambda t: t[:rank],
        "B": lambda t: t[:, :rank],
        "R": lambda t: t[:rank, :rank],
        "head": lambda t: t,
    }
    tensors = {name: cut[factor(name)](tensor).clone() for name, tensor in adapter.tensors.items()}
    return AdapterState(tensors, rank, adapter.scaling if scaling is None else scaling)


def pad(tensors: Tensors, rank: int) -> dict[str, Tensor]:
    """Tensors of a smaller rank filled with zeros up to ``rank``: the product is unchanged."""
    padded = {}
    for name, tensor in tensors.items():
        kind = factor(name)
        down = rank - tensor.shape[0] if kind in ("A", "R") else 0
        right = rank - tensor.shape[1] if kind in ("B", "R") else 0
        padded[name] = torch.nn.functional.pad(tensor, (0, right, 0, down)) if kind != "head" else tensor.clone()
    return padded


def redraw(adapter: AdapterState, rank: int, scaling: float, generator: torch.Generator) -> AdapterState:
    """A fresh adapter of the same modules by PEFT's default: A ~ U(-1/sqrt(d_in), 1/sqrt(d_in)), B = 0. Head copied."""
    tensors = {name: tensor for name, tensor in adapter.tensors.items() if factor(name) == "head"}
    for module in modules(adapter.tensors):
        d_in, d_out = adapter.tensors[f"{module}.A"].shape[1], adapter.tensors[f"{module}.B"].shape[0]
        bound = 1 / math.sqrt(d_in)
        tensors[f"{module}.A"] = torch.empty(rank, d_in).uniform_(-bound, bound, generator=generator)
        tensors[f"{module}.B"] = torch.zeros(d_out, rank)
    return AdapterState(tensors, rank, scaling)


def flatten(tensors: Tensors) -> Tensor:
    """All values as one vector, names in sorted order."""
    return torch.cat([tensors[name].reshape(-1) for name in sorted(tensors)]) if tensors else torch.zeros(0)


def unflatten(vector: Tensor, like: Tensors) -> dict[str, Tensor]:
    """The inverse of ``flatten`` for the names and shapes of ``like``."""
    names = sorted(like)
    parts = vector.split([like[name].numel() for name in names])
    return {name: part.view_as(like[name]).clone() for name, part in zip(names, parts, strict=True)}


def norm(tensors: Tensors) -> float:
    """L2 norm over all tensors jointly."""
    return math.sqrt(math.fsum(float(tensor.double().square().sum()) for tensor in tensors.values()))
