"""bfloat16: the upper half of a float32, rounded to nearest. 2 bytes per scalar, 8 significant bits, full range.

A value beyond bfloat16's largest is sent as the largest: nothing finite becomes infinite.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fedsim.codecs.base import ValueCodec
from fedsim.codecs.wire import Reader, Writer
from fedsim.core.adapter import Tensors, norm

LARGEST = torch.finfo(torch.bfloat16).max


class BFloat16(ValueCodec):
    def encode(self, tensors: Tensors, writer: Writer, generator: torch.Generator, fed_back: bool) -> None:
        for name in sorted(tensors):
            halves = tensors[name].float().clamp(-LARGEST, LARGEST).bfloat16().contiguous().view(torch.int16)
            writer.values(halves.numpy().astype("<i2").tobytes())

    def decode(self, like: Tensors, reader: Reader) -> dict[str, Tensor]:
        tensors = {}
        for name in sorted(like):
            halves = torch.from_numpy(reader.take(2 * like[name].numel()).view("<i2").astype(np.int16))
            tensors[name] = halves.view(torch.bfloat16).float().view(like[name].shape)
        return tensors

    def error_bound(self, tensors: Tensors) -> float:
        """2^-8 of each value (half a unit in the 8th significant bit), or half the smallest bfloat16."""
        numel = sum(tensor.numel() for tensor in tensors.values())
        return 2**-8 * norm(tensors) + 2**-134 * math.sqrt(numel)
