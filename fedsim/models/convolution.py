"""The layers of a convolutional network that hold a bank axis (see ``lora``).

A convolution k x k is a linear map of patches, so its LoRA pair (FLoCoRA, 2406.14082) is A (r, c_in k k) and
B (c_out, r) like that of any linear layer, and all algebra on adapters holds. It runs as A, a convolution k x k to r
maps, then B, one of 1 x 1. With values of their own for every row, n rows run as n groups of one convolution: the same
numbers as a product over unfolded patches, without the k k copies of the input.

Shapes: n rows, c maps, h x w pixels, p output pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, group_norm

from fedsim.models.lora import CohortLinear, Running, every_row


def row_convolution(x: Tensor, weight: Tensor, like: nn.Conv2d) -> Tensor:
    """Row i of x (n, c_in, h, w) convolved with its own of ``weight`` (g, c_out, c_in, k, k): (n, c_out, h', w').

    Stride and padding are those of ``like``. A weight that is trained is never shared by rows here: the gradient that
    torch 2.13 gives for a convolution 1 x 1 of channels-last input on a CPU holds values that nothing has written.
    """
    if len(weight) == 1 and not weight.requires_grad:
        return conv2d(x, weight[0], None, like.stride, like.padding)
    weight = every_row(weight, len(x))
    grouped = x.reshape(1, -1, *x.shape[2:])  # (1, n c_in, h, w)
    out = conv2d(grouped, weight.flatten(0, 1), None, like.stride, like.padding, groups=len(weight))
    return out.view(*weight.shape[:2], *out.shape[2:])


class CohortConvolution(CohortLinear):
    """A frozen convolution with one low-rank change per bank."""

    base: nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        """(n, c_in, h, w) -> (n, c_out, h', w')"""
        out: Tensor = self.base(x)
        cohort = self.running.required()
        a, b, r = cohort.need(f"{self.name}.A"), cohort.need(f"{self.name}.B"), cohort.take(f"{self.name}.R")
        b = (b if r is None else torch.matmul(b, r)) * cohort.group_scaling()
        hidden = self._patches_times(x, a)  # (n, r, p)
        out = out + torch.matmul(every_row(b, len(x)), hidden).view_as(out)
        if self.frozen is not None:
            frozen_a, frozen_b = self.frozen
            out = out + torch.matmul(frozen_b, self._patches_times(x, frozen_a[None])).view_as(out)
        return out

    def _patches_times(self, x: Tensor, a: Tensor) -> Tensor:
        """The patches of x times A (g, r, c_in k k): (n, r, p)"""
        kernels = a.view(*a.shape[:2], *self.base.weight.shape[1:])
        return row_convolution(x, kernels, self.base).flatten(2)


class CohortWholeConvolution(nn.Module):
    """A convolution that is trained whole, once per bank; ``base`` gives its stride and padding."""

    def __init__(self, base: nn.Conv2d, name: str, running: Running) -> None:
        super().__init__()
        self.base, self.name, self.running = base, name, running

    def forward(self, x: Tensor) -> Tensor:
        return row_convolution(x, self.running.required().need(f"head.{self.name}.weight"), self.base)


class CohortNorm(nn.Module):
    """Group normalisation with weight and bias per bank. Each row is normalised by itself: rows stay independent."""

    def __init__(self, base: nn.GroupNorm, name: str, running: Running) -> None:
        super().__init__()
        self.groups, self.eps, self.name, self.running = base.num_groups, base.eps, name, running

    def forward(self, x: Tensor) -> Tensor:
        cohort = self.running.required()
        named = (cohort.need(f"head.{self.name}.{kind}") for kind in ("weight", "bias"))
        weight, bias = (every_row(values, len(x)) for values in named)  # (n, c)
        return group_norm(x, self.groups, eps=self.eps) * weight[:, :, None, None] + bias[:, :, None, None]
