"""Layers that hold a bank axis: one frozen base layer, many banks' adapters in the same forward pass.

A forward pass runs rows of several banks as one batch. ``Cohort.leaves`` holds every adapted tensor once per *leaf*:

    one leaf per row    DP training: autograd of sum(losses) then returns one gradient per row, without hooks
    one leaf per bank   training without DP: a bank's rows share its leaf
    a single leaf       evaluation of one adapter

Shapes: n rows, m leaves, t positions, r rank, d_in, d_out. A module's weight change is scaling * B @ A
(scaling * B @ R @ A with an R), plus that of the frozen adapters below it, which all rows share.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsim.core.adapter import Tensors
from fedsim.models.fused import low_rank


@dataclass(slots=True)
class Cohort:
    """The adapters of one forward pass.

    ``index`` maps rows to leaves; None when rows are in the order of leaves, equally many for each.
    """

    leaves: Tensors  # name -> (m, *shape)
    scaling: Tensor  # (m,)
    index: Tensor | None = None  # (n,)

    def take(self, name: str) -> Tensor | None:
        """(g, *shape) for g groups of equally many rows, in order; None when there is no such tensor."""
        leaf = self.leaves.get(name)
        return leaf if leaf is None or self.index is None else leaf.index_select(0, self.index)

    def need(self, name: str) -> Tensor:
        """``take`` of a tensor that the network cannot do without."""
        tensor = self.take(name)
        if tensor is None:
            raise RuntimeError(f"the adapter has no tensor {name!r}")
        return tensor

    def group_scaling(self) -> Tensor:
        """(g, 1, 1)"""
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
        cohort = self.running.required()
        a, b, r = cohort.need(f"{self.name}.A"), cohort.need(f"{self.name}.B"), cohort.take(f"{self.name}.R")
        if r is not None:
            b = torch.matmul(b, r)
        grouped = x.reshape(len(a), -1, x.shape[-1])  # (g, positions of a group, d_in)
        if type(self.base) is nn.Linear and x.dtype == self.base.weight.dtype == torch.float32:
            out = low_rank(grouped, self.base.weight, self.base.bias, a, b, cohort.group_scaling())
            out = out.view(*x.shape[:-1], out.shape[-1])
        else:
            out = self.base(x)
            hidden = torch.matmul(grouped.to(torch.float32), a.transpose(1, 2)) * cohort.group_scaling()
            out = out + torch.matmul(hidden, b.transpose(1, 2)).view(out.shape).to(out.dtype)
        if self.frozen is not None:
            frozen_a, frozen_b = self.frozen
            out = out + (x.to(torch.float32) @ frozen_a.T @ frozen_b.T).to(out.dtype)
        return out  # type: ignore[no-any-return]


class CohortDense(nn.Module):
    """A linear layer that is trained whole, once per bank: a task head."""

    def __init__(self, name: str, running: Running) -> None:
        super().__init__()
        self.name, self.running = name, running

    def forward(self, x: Tensor) -> Tensor:
        cohort = self.running.required()
        weight, bias = cohort.need(f"head.{self.name}.weight"), cohort.take(f"head.{self.name}.bias")
        flat = x.to(torch.float32).reshape(len(weight), -1, x.shape[-1])  # (g, positions of a group, d_in)
        out = torch.matmul(flat, weight.transpose(1, 2))
        if bias is not None:
            out = out + bias[:, None, :]
        return out.view(*x.shape[:-1], weight.shape[1])


def every_row(tensor: Tensor, n: int) -> Tensor:
    """(n, *shape) from (g, *shape): for layers that cannot run the rows of a group together."""
    return tensor if len(tensor) == n else tensor.repeat_interleave(n // len(tensor), 0)


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new`` at the dotted path ``name``."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)
