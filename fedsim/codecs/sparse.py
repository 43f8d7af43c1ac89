"""Sparse: the values that are not zero, and where they are. Lossless.

It pays when a method sends zeros (FLASC's masks), and before a quantiser it keeps zeros exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.codecs.base import Sparsifier
from fedsim.codecs.wire import Reader, Writer, read_support, support_bytes
from fedsim.core.adapter import Tensors


class Sparse(Sparsifier):
    lossless = True

    def select(self, vector: Tensor, writer: Writer, generator: torch.Generator, fed_back: bool) -> Tensor:
        support = vector.nonzero().flatten()
        writer.overhead(support_bytes(support, len(vector)))
        return vector[support]

    def support(self, numel: int, reader: Reader) -> Tensor:
        return read_support(reader, numel)

    def error_bound(self, tensors: Tensors) -> float:
        return 0.0
