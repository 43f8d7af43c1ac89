"""Convolutions with a bank axis against plain ``conv2d``, row by row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, group_norm

from fedsim.models.convolution import CohortConvolution, CohortNorm, CohortWholeConvolution
from fedsim.models.lora import Cohort, Running

RANK, C_IN, C_OUT = 2, 3, 5
SCALING = torch.tensor([0.5, 2.0, 3.0])
INDEX = torch.tensor([2, 0, 0, 1])  # rows to leaves
KERNELS = pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 2), (7, 2)])


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def convolution(kernel: int, stride: int) -> nn.Conv2d:
    base = nn.Conv2d(C_IN, C_OUT, kernel, stride, padding=kernel // 2, bias=False).requires_grad_(False)
    base.weight.copy_(draw(0, *base.weight.shape))
    return base


def leaves(kernel: int, middle: bool = False) -> dict[str, Tensor]:
    pair = {"conv.A": draw(1, 3, RANK, C_IN * kernel**2), "conv.B": draw(2, 3, C_OUT, RANK)}
    return {**pair, "conv.R": draw(3, 3, RANK, RANK)} if middle else pair


def images() -> Tensor:
    return draw(4, 4, C_IN, 9, 7)


def expected(base: nn.Conv2d, x: Tensor, a: Tensor, b: Tensor, scaling: Tensor) -> Tensor:
    """conv(x) + scaling B(A(x)) of one image (c_in, h, w), B being 1 x 1."""
    where = {"stride": base.stride, "padding": base.padding}
    hidden = conv2d(x[None], a.view(RANK, *base.weight.shape[1:]), **where)
    return (conv2d(x[None], base.weight, **where) + scaling * conv2d(hidden, b[:, :, None, None]))[0]


@KERNELS
def test_a_pair_equals_a_convolution_followed_by_one_of_1x1(kernel, stride) -> None:
    base, values, x = convolution(kernel, stride), leaves(kernel), images()
    running = Running(Cohort(values, SCALING, INDEX))
    found = CohortConvolution(base, "conv", running)(x)
    for row, leaf in enumerate(INDEX.tolist()):
        one = expected(base, x[row], values["conv.A"][leaf], values["conv.B"][leaf], SCALING[leaf])
        torch.testing.assert_close(found[row], one, atol=1e-5, rtol=1e-5)


@KERNELS
def test_a_pair_equals_its_product_added_to_the_weight(kernel, stride) -> None:
    """So the algebra on B A is algebra on the convolution."""
    base, values, x = convolution(kernel, stride), leaves(kernel), images()
    first = {name: leaf[:1] for name, leaf in values.items()}
    found = CohortConvolution(base, "conv", Running(Cohort(first, SCALING[:1])))(x)
    product = (SCALING[0] * values["conv.B"][0] @ values["conv.A"][0]).view_as(base.weight)
    torch.testing.assert_close(
        found, conv2d(x, base.weight + product, None, base.stride, base.padding), atol=1e-5, rtol=1e-5
    )


def test_a_middle_factor_stands_between_the_two() -> None:
    base, values, x = convolution(3, 1), leaves(3, middle=True), images()
    found = CohortConvolution(base, "conv", Running(Cohort(values, SCALING, INDEX)))(x)
    folded = {"conv.A": values["conv.A"], "conv.B": values["conv.B"] @ values["conv.R"]}
    same = CohortConvolution(base, "conv", Running(Cohort(folded, SCALING, INDEX)))(x)
    torch.testing.assert_close(found, same, atol=1e-4, rtol=1e-4)


def test_a_frozen_pair_is_added_for_every_row() -> None:
    base, values, x = convolution(3, 2), leaves(3), images()
    layer = CohortConvolution(base, "conv", Running(Cohort(values, SCALING, INDEX)))
    without = layer(x)
    layer.frozen = (draw(5, 1, C_IN * 9), draw(6, C_OUT, 1))
    product = (layer.frozen[1] @ layer.frozen[0]).view_as(base.weight)
    torch.testing.assert_close(layer(x), without + conv2d(x, product, stride=2, padding=1), atol=1e-4, rtol=1e-4)


@KERNELS
def test_a_whole_convolution_per_bank(kernel, stride) -> None:
    base, x = convolution(kernel, stride), images()
    weight = draw(5, 3, *base.weight.shape)
    running = Running(Cohort({"head.conv.weight": weight}, SCALING, INDEX))
    found = CohortWholeConvolution(base, "conv", running)(x)
    for row, leaf in enumerate(INDEX.tolist()):
        one = conv2d(x[row][None], weight[leaf], None, base.stride, base.padding)[0]
        torch.testing.assert_close(found[row], one, atol=1e-4, rtol=1e-4)


def test_a_norm_per_bank() -> None:
    weight, bias, x = draw(5, 3, 6), draw(6, 3, 6), draw(7, 4, 6, 5, 2)
    running = Running(Cohort({"head.norm.weight": weight, "head.norm.bias": bias}, SCALING, INDEX))
    found = CohortNorm(nn.GroupNorm(2, 6), "norm", running)(x)
    for row, leaf in enumerate(INDEX.tolist()):
        torch.testing.assert_close(found[row], group_norm(x[row][None], 2, weight[leaf], bias[leaf])[0])


def test_a_missing_tensor_is_named() -> None:
    layer = CohortConvolution(convolution(3, 1), "conv", Running(Cohort({}, SCALING, INDEX)))
    with pytest.raises(RuntimeError, match=r"no tensor 'conv\.A'"):
        layer(images())
