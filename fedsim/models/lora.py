"""Layers that hold a bank axis: one frozen base layer, many banks' adapters in the same forward pass.

A forward pass runs rows of several banks as one batch. ``Cohort.leaves`` holds every adapted tensor once per *leaf*:

    one leaf per row    DP training: autograd of sum(losses) then returns one gradient per row, without hooks
    one leaf per bank   training without DP: rows pick their bank's leaf by ``index``
    a single leaf       evaluation of one adapter

Shapes: n rows, m leaves, t positions, r rank, d_in, d_out. A module's weight change is scaling * B @ A
(scaling * B @ R @ A with an R), plus that of the frozen adapters below it, which all rows share.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsim.core.adapter import Tensors


@dataclass(slots=True)
class Cohort:
    """The adapters of one forward pass. ``index`` maps rows to leaves; None when there is one leaf, or one per row."""

    leaves: Tensors  # name -> (m, *shape)
    scaling: Tensor  # (m,)
    index: Tensor | None = None  # (n,)

    def take(self, name: str) -> Tensor | None:
        """A tensor per row, (n, *shape), or (1, *shape) for a single leaf; None when there is no such tensor."""
        leaf = self.leaves.get(name)
        return leaf if leaf is None or self.index is None else leaf.index_select(0, self.index)

    def need(self, name: str) -> Tensor:
        """``take`` of a tensor that the network cannot do without."""
        tensor = self.take(name)
        if tensor is None:
            raise RuntimeError(f"the adapter has no tensor {name!r}")
        return tensor

    def row_scaling(self) -> Tensor:
        """(n or 1, 1, 1)"""
        scaling = self.scaling if self.index is None else self.scaling.index_select(0, self.index)
        return scaling[:, None, None]


@dataclass(slots=True)
class Running:
    """The one place that all layers of a model look at for the current cohort."""

    cohort: Cohort | None = None

    def required(self) -> Cohort:
        if self.cohort is None:
            raise RuntimeError("the model was called outside CohortModel.using()")
        return self.cohort


class CohortLinear(nn.Module):
    """A frozen linear map (quantised or not) with one low-rank change per bank."""

    def __init__(self, base: nn.Module, name: str, running: Running) -> None:
        super().__init__()
        self.base, self.name, self.running = base, name, running
        self.frozen: tuple[Tensor, Tensor] | None = None  # (R, d_in), (d_out, R), scaling folded in

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        x = x.to(torch.float32)
        change = self._trained(x.reshape(x.shape[0], -1, x.shape[-1])).view(out.shape)
        if self.frozen is not None:
            a, b = self.frozen
            change = change + x @ a.T @ b.T
        return out + change.to(out.dtype)

    def _trained(self, x: Tensor) -> Tensor:
        """(n, t, d_in) -> (n, t, d_out)"""
        cohort = self.running.required()
        a, b, r = cohort.need(f"{self.name}.A"), cohort.need(f"{self.name}.B"), cohort.take(f"{self.name}.R")
        hidden = torch.matmul(x, a.transpose(1, 2))  # (n, t, r)
        if r is not None:
            hidden = torch.matmul(hidden, r.transpose(1, 2))
        return torch.matmul(hidden * cohort.row_scaling(), b.transpose(1, 2))


class CohortDense(nn.Module):
    """A linear layer that is trained whole, once per bank: a task head."""

    def __init__(self, name: str, running: Running) -> None:
        super().__init__()
        self.name, self.running = name, running

    def forward(self, x: Tensor) -> Tensor:
        cohort = self.running.required()
        weight, bias = cohort.need(f"head.{self.name}.weight"), cohort.take(f"head.{self.name}.bias")
        flat = x.to(torch.float32).reshape(x.shape[0], -1, x.shape[-1])  # (n, t, d_in)
        out = torch.matmul(flat, weight.transpose(1, 2))
        if bias is not None:
            out = out + bias[:, None, :]
        return out.view(*x.shape[:-1], weight.shape[1])


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new`` at the dotted path ``name``."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)
