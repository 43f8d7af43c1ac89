"""The plain networks of FLoCoRA's experiments."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedsim.models.resnet import Shape, build

CIFAR = Shape(depth=8, width=64, norm_groups=2, channels=3, num_labels=10, small_images=True)


@pytest.mark.parametrize(("depth", "parameters"), [(8, 1_227_594), (18, 11_173_962)])
def test_parameters_are_those_of_the_paper(depth, parameters) -> None:
    network = build(replace(CIFAR, depth=depth), 0)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_every_stage_but_the_first_halves_the_resolution() -> None:
    network = build(replace(CIFAR, width=4), 0)
    x = network.stem(torch.zeros(1, 3, 32, 32))
    shapes = []
    for stage in network.stages:
        x = stage(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(4, 32, 32), (8, 16, 16), (16, 8, 8)]


def test_the_stem_for_large_images_hands_on_a_quarter_of_the_resolution() -> None:
    network = build(replace(CIFAR, width=4, small_images=False), 0)
    assert network.pool(network.stem(torch.zeros(1, 3, 64, 64))).shape[2:] == (16, 16)


def test_values_depend_on_the_seed_alone_and_draw_from_no_global_generator() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (build(replace(CIFAR, width=4), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stem.conv.weight"], other["stem.conv.weight"])


def test_initial_convolutions_have_the_promised_deviation() -> None:
    weight = build(CIFAR, 3).stages[2][0].second.conv.weight.detach()  # 589,824 values
    assert float(weight.std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
