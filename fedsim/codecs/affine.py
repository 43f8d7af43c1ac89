"""Affine integers of 8, 4 or 2 bits per output channel (FLoCoRA, 2406.14082; its code's ``utils/simple_quant.py``).

Per channel (dim 0 of a matrix or of a convolution), with L = 2^bits - 1 steps:

    scale = (max - min) / L        q = clamp(round((x - min) / scale), 0, L)        x' = min + q scale

Vectors and scalars (norms, biases) stay float32. Bytes of a matrix: numel * bits / 8 + 8 per channel. (A channel of a
LoRA B has only r values, so these 8 bytes weigh; [sparse, affine] has them once per 512 values instead.)

Laws: |x - x'| <= scale / 2; a constant channel is exact; encoding what was decoded changes nothing (to float rounding).

Deviation. The paper has q in [-2^(bits-1), 2^(bits-1) - 1] and sends scale and a zero point z = q_min - min / scale,
x' = (q - z) scale. We send scale and min: the same equation in as many bytes. But min is a float32 as it stands and
z loses digits when a channel's offset is large against its range, and a constant channel (scale 0) needs no special
case, where the authors' code zeroes the zero points of all channels.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedsim.codecs.base import ValueCodec
from fedsim.codecs.wire import Reader, Writer, float_bytes, pack
from fedsim.core.adapter import Tensors
from fedsim.core.registry import Config as Knobs


class Affine(ValueCodec):
    class Config(Knobs):
        bits: Literal[2, 4, 8] = 8

    config: Config

    def encode(self, tensors: Tensors, writer: Writer, generator: torch.Generator, fed_back: bool) -> None:
        for name in sorted(tensors):
            if not _quantised(tensors[name]):
                writer.values(float_bytes(tensors[name]))
                continue
            rows, low, scale = self._grid(tensors[name])
            divisor = torch.where(scale > 0, scale, math.inf)  # a constant channel is all zeros
            codes = ((rows - low) / divisor).round_().clamp_(max=self._steps)  # a subnormal scale is rounded coarsely
            writer.overhead(float_bytes(torch.cat([scale, low], 1)))
            writer.values(pack(codes.numpy().astype(np.uint8), self.config.bits))

    def decode(self, like: Tensors, reader: Reader) -> dict[str, Tensor]:
        tensors = {}
        for name in sorted(like):
            shape, numel = like[name].shape, like[name].numel()
            if _quantised(like[name]):
                scale, low = reader.floats(2 * shape[0]).double().view(-1, 2, 1).unbind(1)
                codes = reader.codes(numel, self.config.bits).view(shape[0], -1)
                tensors[name] = (low + codes * scale).float().view(shape)
            else:
                tensors[name] = reader.floats(numel).view(shape)
        return tensors

    def error_bound(self, tensors: Tensors) -> float:
        """Half a step for every value, and the rounding of scale and result to float32."""
        total = 0.0
        for tensor in filter(_quantised, tensors.values()):
            rows, _, scale = self._grid(tensor)
            half_step = 0.5001 * scale + 2**-23 * rows.abs().amax(1, keepdim=True) + torch.finfo(torch.float32).tiny
            total += float(half_step.square().sum()) * rows.shape[1]
        return math.sqrt(total)

    @property
    def _steps(self) -> int:
        return 2**self.config.bits - 1

    def _grid(self, tensor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values (channels, n), min and scale (channels, 1): float64 holding the float32 numbers that travel."""
        rows = tensor.float().double().flatten(1)
        low, high = rows.aminmax(dim=1, keepdim=True)
        return rows, low, ((high - low) / self._steps).float().double()


def _quantised(tensor: Tensor) -> bool:
    return tensor.dim() >= 2 and tensor.numel() > 0
