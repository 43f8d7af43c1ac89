"""The residual networks of FLoCoRA (2406.14082) as plain PyTorch: ResNet-8 and ResNet-18 with group normalisation.

ResNet-8 has three stages of one block, ResNet-18 four of two (1512.03385, basic blocks). The first stage has ``width``
maps, each later one twice as many at half the resolution. No convolution has a bias; every one is followed by a norm.
At width 64, 3 channels and 10 classes: 1,227,594 and 11,173,962 parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from fedsim.core import seeds

BLOCKS = {8: (1, 1, 1), 18: (2, 2, 2, 2)}  # depth -> blocks of each stage


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides the parameters of a network."""

    depth: int
    width: int
    norm_groups: int
    channels: int
    num_labels: int
    small_images: bool  # a stem of 3 x 3 instead of 7 x 7 with stride 2 and pooling


class ConvNorm(nn.Module):
    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(groups, c_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x))
        return out


class Block(nn.Module):
    """Two convolutions 3 x 3 and a shortcut, which is a convolution 1 x 1 where the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int, groups: int) -> None:
        super().__init__()
        self.first = ConvNorm(c_in, c_out, 3, stride, groups)
        self.second = ConvNorm(c_out, c_out, 3, 1, groups)
        same = stride == 1 and c_in == c_out
        self.shortcut: nn.Module = nn.Identity() if same else ConvNorm(c_in, c_out, 1, stride, groups)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.second(relu(self.first(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """(n, channels, h, w) -> (n, num_labels)"""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        kernel, stride = (3, 1) if shape.small_images else (7, 2)
        self.stem = ConvNorm(shape.channels, shape.width, kernel, stride, shape.norm_groups)
        self.pool: nn.Module = nn.Identity() if shape.small_images else nn.MaxPool2d(3, 2, padding=1)
        stages, maps = [], shape.width
        for index, count in enumerate(BLOCKS[shape.depth]):
            blocks = []
            for number in range(count):
                wider = shape.width * 2**index
                blocks.append(Block(maps, wider, 2 if index > 0 and number == 0 else 1, shape.norm_groups))
                maps = wider
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(maps, shape.num_labels)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.stages(self.pool(relu(self.stem(x)))).mean((2, 3))
        out: Tensor = self.fc(features)
        return out


def build(shape: Shape, seed: int) -> ResNet:
    """A network on the CPU with values that depend on ``shape`` and ``seed`` alone.

    Convolutions are drawn from N(0, 2 / (c_out k k)) (1502.01852, as the authors do), norms start as the identity and
    the last layer at U(-1/sqrt(d), 1/sqrt(d)).
    """
    with torch.device("meta"):  # so that no layer draws values of its own
        network = ResNet(shape)
    network.to_empty(device="cpu")
    for name, module in network.named_modules():
        draws = seeds.generator(seed, "initial weights", name)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=draws)
        elif isinstance(module, nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=draws)
            nn.init.uniform_(module.bias, -bound, bound, generator=draws)
    return network
