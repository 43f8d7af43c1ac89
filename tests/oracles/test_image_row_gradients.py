"""Per-row gradients of the convolutional cohort against one row at a time, and against Opacus on a plain network."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsim.core.adapter import AdapterState, flatten
from fedsim.core.rows import ImageRows
from fedsim.core.sections import Lora
from fedsim.models.lora import Cohort, replace_module
from fedsim.models.resnet import Shape, build
from fedsim.models.vision import ImageClassifier, ResNetModel
from fedsim.train.cohort import CohortState
from fedsim.train.gradients import Gradients, Tally
from fedsim.train.sampling import Drawn

Kind = Literal["lora", "full"]
KINDS = pytest.mark.parametrize("kind", ["lora", "full"])
INDICES = np.array([7, 0, 3, 3, 5])  # a row may come twice


def setup(kind: Kind) -> tuple[ImageClassifier, ImageRows, AdapterState]:
    """ResNet-8 of width 4 on random images, at values where no gradient vanishes."""
    config = ResNetModel.Config(width=4, train=kind)
    model = ResNetModel(config).load(Lora(r=2, lora_alpha=8), 3)
    start = model.new_adapter(0)
    draws = torch.Generator().manual_seed(1)
    values = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=draws) for name, tensor in start.tensors.items()}
    rng = np.random.default_rng(2)
    rows = ImageRows(rng.integers(0, 256, (8, 12, 10, 3), dtype=np.uint8), rng.integers(0, 3, 8))
    return model, rows, start.with_tensors(values)


def row_gradients(model: ImageClassifier, rows: ImageRows, adapter: AdapterState, indices: np.ndarray) -> Tensor:
    """(rows, P) from one pass, one leaf per row."""
    repeated = {name: tensor.expand(len(indices), *tensor.shape).clone() for name, tensor in adapter.tensors.items()}
    leaves = {name: tensor.requires_grad_() for name, tensor in repeated.items()}
    scaling = torch.full((len(indices),), adapter.scaling)
    with model.using(Cohort(leaves, scaling)):
        losses = model.row_losses(model.batch(rows, indices))
    grads = torch.autograd.grad(losses.sum(), [leaves[name] for name in sorted(leaves)])
    return torch.cat([grad.flatten(1) for grad in grads], 1)


def worst(ours: Tensor, oracle: Tensor) -> float:
    return float(((ours - oracle).norm(dim=1) / oracle.norm(dim=1)).max())


@KINDS
def test_equal_one_row_at_a_time(kind) -> None:
    model, rows, adapter = setup(kind)
    together = row_gradients(model, rows, adapter, INDICES)
    alone = torch.cat([row_gradients(model, rows, adapter, INDICES[i : i + 1]) for i in range(len(INDICES))])
    assert worst(together, alone) < 1e-5


class Pair(nn.Module):
    """conv(x) + scaling B(A(x)) in plain PyTorch."""

    def __init__(self, base: nn.Conv2d, a: Tensor, b: Tensor, scaling: float) -> None:
        super().__init__()
        self.base, self.scaling = base.requires_grad_(False), scaling
        self.A = nn.Conv2d(base.in_channels, len(a), base.kernel_size, base.stride, base.padding, bias=False)
        self.B = nn.Conv2d(len(a), base.out_channels, 1, bias=False)
        with torch.no_grad():
            self.A.weight.copy_(a.view_as(self.A.weight))
            self.B.weight.copy_(b.view_as(self.B.weight))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.scaling * self.B(self.A(x))
        return out


def plain_network(adapter: AdapterState) -> nn.Module:
    """The same function without fedsim's layers."""
    network = build(Shape(8, 4, 2, 3, 3, True), 0)
    heads = {name.removeprefix("head."): t for name, t in adapter.tensors.items() if name.startswith("head.")}
    network.load_state_dict(heads, strict=False)
    for name in [name.removesuffix(".A") for name in adapter.tensors if name.endswith(".A")]:
        a, b = adapter.tensors[f"{name}.A"], adapter.tensors[f"{name}.B"]
        replace_module(network, name, Pair(network.get_submodule(name), a, b, adapter.scaling))
    return network


@KINDS
def test_equal_opacus(kind) -> None:
    from opacus import GradSampleModule

    model, rows, adapter = setup(kind)
    batch = model.batch(rows, INDICES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = GradSampleModule(plain_network(adapter), loss_reduction="sum")
        cross_entropy(oracle(batch.images), batch.labels, reduction="sum").backward()
    samples = {}
    for name, parameter in oracle.named_parameters():
        if parameter.requires_grad:
            name = name.removeprefix("_module.")
            ours = name.removesuffix(".weight") if name.endswith((".A.weight", ".B.weight")) else f"head.{name}"
            samples[ours] = parameter.grad_sample
    assert samples.keys() == adapter.tensors.keys()
    expected = torch.stack([flatten({n: s[i] for n, s in samples.items()}) for i in range(len(INDICES))])
    assert worst(row_gradients(model, rows, adapter, INDICES), expected) < 1e-5


@KINDS
def test_the_sum_per_bank_equals_the_sum_of_row_gradients(kind) -> None:
    model, rows, adapter = setup(kind)
    state = CohortState([adapter, adapter], list(adapter.tensors), model.device)
    sums = Gradients(model, rows, state, []).sums(
        [Drawn.of_rows(INDICES[:2]), Drawn.of_rows(INDICES[2:])], 4, [Tally(), Tally()]
    )
    single = row_gradients(model, rows, adapter, INDICES)
    assert worst(sums, torch.stack([single[:2].sum(0), single[2:].sum(0)])) < 1e-5


@KINDS
def test_a_row_does_not_depend_on_its_batch(kind) -> None:
    model, rows, adapter = setup(kind)
    one = row_gradients(model, rows, adapter, np.array([1, 4, 5]))[:1]
    other = row_gradients(model, rows, adapter, np.array([1, 2, 6, 0]))[:1]
    assert worst(one, other) < 1e-5
