"""Top-k: the k = int(N density) values of largest magnitude over the whole message, and where they are.

Laws: exactly k values are sent, also with ties (the lower coordinate first) and for k = 0;
|u - topk(u)|^2 <= (1 - k/N) |u|^2. With ``error_feedback`` what was not sent is added to the next message (1809.07599,
1901.09847). FLASC (2406.05233) uses none.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from fedsim.codecs.base import Sparsifier
from fedsim.codecs.wire import Reader, Writer, read_support, support_bytes
from fedsim.core.adapter import Tensors, norm, top_mask
from fedsim.core.registry import Config as Knobs


class TopK(Sparsifier):
    class Config(Knobs):
        density: float = Field(0.25, ge=0, le=1)
        error_feedback: bool = False

    config: Config

    @property
    def needs_basis(self) -> bool:
        return self.config.error_feedback

    def select(self, vector: Tensor, writer: Writer, generator: torch.Generator, fed_back: bool) -> Tensor:
        chosen = top_mask({"vector": vector}, int(len(vector) * self.config.density))
        support = chosen["vector"].nonzero().flatten()
        writer.overhead(support_bytes(support, len(vector)))
        return vector[support]

    def support(self, numel: int, reader: Reader) -> Tensor:
        return read_support(reader, numel)

    def error_bound(self, tensors: Tensors) -> float:
        """sqrt(1 - k/N) of the norm: the values left out are the smallest."""
        numel = sum(tensor.numel() for tensor in tensors.values())
        return math.sqrt(1 - int(numel * self.config.density) / max(1, numel)) * norm(tensors)
