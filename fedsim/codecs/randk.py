"""Random-k: k = int(N density) coordinates drawn from a seed; only the 8-byte seed travels beside the values.

Law: the sent values are multiplied by N / k, so that E decode(encode(v)) = v, with variance (N/k - 1) |v|^2 (Konecny et
al., 1610.05492, random mask). With ``error_feedback``, or in a chain that feeds its error back, they are sent as they
are: a contraction, E|v - sent|^2 = (1 - k/N) |v|^2. With k = 0 nothing is sent and zeros are read.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from fedsim.codecs.base import Sparsifier
from fedsim.codecs.wire import Reader, Writer
from fedsim.core import seeds
from fedsim.core.adapter import Tensors, norm
from fedsim.core.registry import Config as Knobs


class RandK(Sparsifier):
    class Config(Knobs):
        density: float = Field(0.25, ge=0, le=1)
        error_feedback: bool = False

    config: Config

    @property
    def needs_basis(self) -> bool:
        return self.config.error_feedback

    def select(self, vector: Tensor, writer: Writer, generator: torch.Generator, fed_back: bool) -> Tensor:
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        writer.overhead(seed.to_bytes(8, "little"))
        values = vector[self._draw(seed, len(vector))]
        return values if fed_back or not len(values) else values * (len(vector) / len(values))

    def support(self, numel: int, reader: Reader) -> Tensor:
        return self._draw(int.from_bytes(reader.take(8).tobytes(), "little"), numel)

    def _draw(self, seed: int, numel: int) -> Tensor:
        order = torch.randperm(numel, generator=seeds.generator(seed, "randk"))
        return order[: int(numel * self.config.density)].sort().values

    def error_bound(self, tensors: Tensors) -> float:
        """The norm where a value is left out, N/k - 1 times the norm where it is sent multiplied."""
        numel = sum(tensor.numel() for tensor in tensors.values())
        sent = int(numel * self.config.density)
        if sent == numel:
            return 0.0
        return norm(tensors) * (max(1.0, numel / sent - 1) if sent else 1.0)
