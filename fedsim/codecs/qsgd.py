"""QSGD: stochastic rounding to s levels of a norm (Alistarh et al., NeurIPS 2017, 1610.02132, section 3.1).

Within a bucket v of n values,  Q(v_i) = |v| sign(v_i) l_i / s,  where l_i is s |v_i| / |v| rounded up with a
probability equal to its fraction. Law (lemma 3.1): E Q(v) = v and E|Q(v) - v|^2 <= w |v|^2 with
w = min(n / s^2, sqrt(n) / s).

On the wire a bucket is its float32 norm and one code l_i sign(v_i) + s per value, packed in the bits that 2s + 1 codes
need: 2 bits for s = 1, 4 for s = 7, 8 for s = 127. (The paper's Elias code is shorter for small s only.)

With error feedback Q is divided by 1 + w: unbiased rounding with w > 1 is no contraction and the residual would grow
without limit, whereas E|v - Q(v) / (1 + w)|^2 <= w / (1 + w) |v|^2 (Horvath et al., 1904.05115).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsim.codecs.base import ROW, ValueCodec
from fedsim.codecs.wire import Reader, Writer, float_bytes, pack
from fedsim.core.adapter import Tensors
from fedsim.core.registry import Config as Knobs


class QSGD(ValueCodec):
    class Config(Knobs):
        levels: int = Field(7, ge=1, le=127)  # s
        bucket: int | None = Field(ROW, ge=1)  # values that share a norm; None: a whole tensor

    config: Config

    def encode(self, tensors: Tensors, writer: Writer, generator: torch.Generator, fed_back: bool) -> None:
        s = self.config.levels
        for name in sorted(tensors):
            buckets, numel = self._buckets(tensors[name]), tensors[name].numel()
            norms = _norms(buckets)
            # in [0, s], since a norm rounded to float32 is still no less than its largest value
            ratio = s * buckets.abs() / torch.where(norms > 0, norms, math.inf)  # (buckets, n)
            draws = torch.rand(ratio.shape, generator=generator, dtype=torch.float64)
            level = ratio.floor() + (draws < ratio.frac())
            codes = (level * buckets.sign() + s).flatten()[:numel]
            writer.overhead(float_bytes(norms / (1 + self._variance(buckets)) if fed_back else norms))
            writer.values(pack(codes.numpy().astype(np.uint8), self._bits))

    def decode(self, like: Tensors, reader: Reader) -> dict[str, Tensor]:
        s, tensors = self.config.levels, {}
        for name in sorted(like):
            numel = like[name].numel()
            length = self._length(numel)
            norms = reader.floats(math.ceil(numel / length)).double().repeat_interleave(length)[:numel]
            tensors[name] = ((reader.codes(numel, self._bits) - s) * norms / s).float().view(like[name].shape)
        return tensors

    def error_bound(self, tensors: Tensors) -> float:
        """Every value moves by less than one level."""
        total = 0.0
        for tensor in tensors.values():
            buckets = self._buckets(tensor)
            total += float((_norms(buckets).square() * buckets.shape[1]).sum())
        return math.sqrt(total) / self.config.levels

    @property
    def _bits(self) -> int:
        return (2 * self.config.levels).bit_length()

    def _length(self, numel: int) -> int:
        """Values per bucket of a tensor."""
        return max(1, min(self.config.bucket or numel, numel))

    def _buckets(self, tensor: Tensor) -> Tensor:
        """(buckets, n) float64; the last one is filled with zeros, which change no norm and are not sent."""
        length = self._length(tensor.numel())
        return torch.nn.functional.pad(tensor.float().double().flatten(), (0, -tensor.numel() % length)).view(
            -1, length
        )

    def _variance(self, buckets: Tensor) -> float:
        """w of lemma 3.1."""
        n, s = buckets.shape[1], self.config.levels
        return min(n / s**2, math.sqrt(n) / s)


def _norms(buckets: Tensor) -> Tensor:
    """(buckets, 1) float64 holding the float32 norms that travel."""
    norms: Tensor = torch.linalg.vector_norm(buckets, dim=1, keepdim=True)
    return norms.clamp(max=torch.finfo(torch.float32).max).float().double()
