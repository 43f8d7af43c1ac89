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


def product_norm(adapter: AdapterState) -> float:
    """Frobenius norm of all products jointly, from rank x rank matrices: |BA|^2 = tr(B^T B A A^T)."""
    squares = []
    for module in modules(adapter.tensors):
        a, b = adapter.tensors[f"{module}.A"].double(), adapter.tensors[f"{module}.B"].double()
        squares.append(float(((b.T @ b) * (a @ a.T)).sum()))
    return adapter.scaling * math.sqrt(max(0.0, math.fsum(squares)))


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
        dtype = adapters[0].tensors[f"{module}.A"].dtype
        tensors[f"{module}.A"] = torch.cat(rows, 0).to(dtype)  # (sum r_k, d_in)
        tensors[f"{module}.B"] = torch.cat(columns, 1).to(dtype)  # (d_out, sum r_k)
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
    """The best approximation of every product at ``rank`` (Eckart-Young), singular values in B (FlexLoRA, 2402.11505).

    Directions beyond the numerical rank are zero in B and in A. Head tensors are copied.
    """
    tensors = {name: tensor for name, tensor in adapter.tensors.items() if factor(name) == "head"}
    for module in modules(adapter.tensors):
        a, b = adapter.tensors[f"{module}.A"], adapter.tensors[f"{module}.B"]
        u, sigma, vt = svd_of_product(a, b)
        found = min(rank, int((sigma > sigma[0] * 1e-12).sum())) if sigma.numel() and sigma[0] > 0 else 0
        new_a, new_b = a.new_zeros(rank, a.shape[1]), b.new_zeros(b.shape[0], rank)
        new_a[:found] = vt[:found]
        new_b[:, :found] = u[:, :found] * sigma[:found] * (adapter.scaling / scaling)
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


def resize(adapter: AdapterState, rank: int, scaling: float) -> AdapterState:
    """The adapter at another rank (leading rows, or zeros added) and scaling; the ratio of scalings goes into B.

    So the product of the rows that stay is unchanged, and factors of banks with unequal alpha / r may be averaged.
    """
    tensors = pad(adapter.tensors, rank) if rank > adapter.rank else dict(leading(adapter, rank).tensors)
    if scaling != adapter.scaling:
        ratio = adapter.scaling / scaling
        tensors = {name: tensor * ratio if factor(name) == "B" else tensor for name, tensor in tensors.items()}
    return AdapterState(tensors, rank, scaling)


def compact(adapter: AdapterState) -> AdapterState:
    """The same products with at most min(d_in, d_out) rows in every A: the longer side is orthonormalised by QR.

    Modules of different shapes end with different ranks; ``rank`` is the largest. Scaling becomes 1.
    """
    tensors: dict[str, Tensor] = {}
    for module in modules(adapter.tensors):
        a, b = adapter.tensors[f"{module}.A"], adapter.tensors[f"{module}.B"]
        new_a, new_b = adapter.scaling * a.double(), b.double()
        if a.shape[0] > min(a.shape[1], b.shape[0]):
            if a.shape[1] <= b.shape[0]:
                q, r = torch.linalg.qr(new_a.T)  # (d_in, d_in), (d_in, rank)
                new_a, new_b = q.T, new_b @ r.T
            else:
                q, r = torch.linalg.qr(new_b)  # (d_out, d_out), (d_out, rank)
                new_a, new_b = r @ new_a, q
        tensors[f"{module}.A"], tensors[f"{module}.B"] = new_a.to(a.dtype).contiguous(), new_b.to(b.dtype).contiguous()
    return AdapterState(tensors, max(tensors[f"{m}.A"].shape[0] for m in modules(tensors)), 1.0)


def fold(frozen: tuple[AdapterState, ...], new: AdapterState, max_rank: int | None = None) -> tuple[AdapterState, ...]:
    """``new`` laid over the frozen adapters, compacted now and then so that their rank stays bounded.

    Adapters are appended as long as the ranks after the first add up to no more than the smallest min(d_in, d_out)
    (or ``max_rank``), so that a bank downloads only what is new; then all become one. Exact, unless ``max_rank`` is
    given: then the one is the best approximation of that rank.
    """
    laid = (*frozen, new)
    shapes = [(new.tensors[f"{m}.A"].shape[1], new.tensors[f"{m}.B"].shape[0]) for m in modules(new.tensors)]
    limit = min(min(shape) for shape in shapes)
    if max_rank is not None:
        limit = min(limit, max_rank)
    if sum(adapter.rank for adapter in laid[1:]) <= limit:
        return laid
    whole = stack(laid, [1.0] * len(laid))
    return (compact(whole) if max_rank is None else truncate(whole, limit, 1.0),)


def top_mask(tensors: Tensors, count: int) -> dict[str, Tensor]:
    """True at the ``count`` largest magnitudes over all tensors jointly; a tie goes to the lower index.

    Exactly ``count`` entries (all of them when there are fewer), the same on every machine. ValueError on NaN.
    """
    magnitude = flatten(tensors).abs()
    if torch.isnan(magnitude).any():
        raise ValueError("cannot rank NaN values by magnitude")
    mask = torch.zeros(magnitude.shape, dtype=torch.bool)
    mask[torch.argsort(magnitude, descending=True, stable=True)[:count]] = True
    return unflatten(mask, tensors)


def redraw(adapter: AdapterState, rank: int, scaling: float, generator: torch.Generator) -> AdapterState:
    """A fresh adapter of the same modules by PEFT's default: A ~ U(-1/sqrt(d_in), 1/sqrt(d_in)), B = 0. Head copied."""
    tensors = {name: tensor for name, tensor in adapter.tensors.items() if factor(name) == "head"}
    for module in modules(adapter.tensors):
        d_in, d_out = adapter.tensors[f"{module}.A"].shape[1], adapter.tensors[f"{module}.B"].shape[0]
        bound = 1 / math.sqrt(d_in)
        old = adapter.tensors[f"{module}.A"]
        tensors[f"{module}.A"] = old.new_empty(rank, d_in).uniform_(-bound, bound, generator=generator)
        tensors[f"{module}.B"] = old.new_zeros(d_out, rank)
    return AdapterState(tensors, rank, scaling)


def flatten(tensors: Tensors) -> Tensor:
    """All values as one vector, names in sorted order."""
    return torch.cat([tensors[name].reshape(-1) for name in sorted(tensors)]) if tensors else torch.zeros(0)


def unflatten(vector: Tensor, like: Tensors) -> dict[str, Tensor]:
    """The inverse of ``flatten`` for the names and shapes of ``like``."""
    names = sorted(like)
    parts = torch.split(vector, [like[name].numel() for name in names])
    return {name: part.view_as(like[name]).clone() for name, part in zip(names, parts, strict=True)}


def norm(tensors: Tensors) -> float:
    """L2 norm over all tensors jointly."""
    return math.sqrt(math.fsum(float(tensor.double().square().sum()) for tensor in tensors.values()))
