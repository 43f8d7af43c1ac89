"""FLoCoRA's byte table (2406.14082; algorithms.md 2.5) from encoded buffers of tensors with the exact shapes.

ResNet for CIFAR-10 with 64 maps and GroupNorm. Mode 2: every convolution k x k from c_in to c_out gets
A (r, c_in, k, k) and B (c_out, r, 1, 1); norms and the last layer are trained and sent.
"""

import pytest
import torch

from fedsim.codecs import pipeline
from fedsim.core import seeds


def convolutions(blocks: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(c_in, c_out, k) of each convolution; a GroupNorm of c_out follows it."""
    found, width = [(3, 64, 3)], 64
    for stage, count in enumerate(blocks):
        maps = 64 * 2**stage
        for _ in range(count):
            found += [(width, maps, 3), (maps, maps, 3)]
            if width != maps:
                found.append((width, maps, 1))  # the shortcut
            width = maps
    return found


def message(blocks: tuple[int, ...], rank: int | None) -> dict[str, torch.Tensor]:
    """What a bank sends: the whole network without a rank, else mode 2."""
    shapes: dict[str, tuple[int, ...]] = {}
    for index, (c_in, c_out, k) in enumerate(convolutions(blocks)):
        shapes |= {f"head.norm{index}.weight": (c_out,), f"head.norm{index}.bias": (c_out,)}
        if rank is None:
            shapes[f"conv{index}.weight"] = (c_out, c_in, k, k)
        else:
            shapes |= {f"conv{index}.A": (rank, c_in, k, k), f"conv{index}.B": (c_out, rank, 1, 1)}
    shapes |= {"head.fc.weight": (10, convolutions(blocks)[-1][1]), "head.fc.bias": (10,)}
    return {name: torch.randn(shape, generator=seeds.generator(1, name)) for name, shape in shapes.items()}


def num_bytes(tensors: dict[str, torch.Tensor], bits: int) -> int:
    chain = [] if bits == 32 else [("affine", {"bits": bits})]
    return pipeline(chain).compress(tensors, {}, seeds.generator(0, "codec"))[0].num_bytes


RESNET8, RESNET18 = (1, 1, 1), (2, 2, 2, 2)
FULL = {RESNET8: 1_227_594, RESNET18: 11_173_962}


@pytest.mark.parametrize(
    ("blocks", "rank", "params", "ratios"),
    [
        (RESNET8, 32, 258_026, {32: 4.76, 8: 17.58, 4: 32.39, 2: 55.95}),
        (RESNET8, 16, 131_642, {32: 9.33, 8: 32.36}),
        (RESNET18, 64, 2_306_122, {32: 4.85, 8: 18.75}),
        (RESNET18, 32, 1_160_426, {32: 9.63, 8: 36.25}),
        (RESNET18, 16, 587_578, {32: 19.02, 8: 67.98}),
    ],
)
def test_flocora_sizes_table(blocks, rank, params, ratios):
    tensors = message(blocks, rank)
    assert sum(tensor.numel() for tensor in tensors.values()) == params
    found = {bits: round(4 * FULL[blocks] / num_bytes(tensors, bits), 2) for bits in ratios}
    assert found == ratios


@pytest.mark.parametrize("blocks", FULL)
def test_the_whole_network(blocks):
    assert num_bytes(message(blocks, None), 32) == 4 * FULL[blocks]


def test_bytes_of_resnet8_at_int8():
    """Each matrix: one byte per value and 8 per output channel; norms and the bias stay float32."""
    tensors = message(RESNET8, 32)
    matrices = [tensor for tensor in tensors.values() if tensor.dim() > 1]
    vectors = [tensor for tensor in tensors.values() if tensor.dim() == 1]
    expected = sum(t.numel() + 8 * t.shape[0] for t in matrices) + sum(4 * t.numel() for t in vectors)
    assert num_bytes(tensors, 8) == expected == 279_256
