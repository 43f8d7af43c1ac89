"""float32 as it is: 4 bytes per scalar, nothing else. The reference that every ratio is measured against."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.codecs.base import ValueCodec
from fedsim.codecs.wire import Reader, Writer, float_bytes
from fedsim.core.adapter import Tensors


class Float32(ValueCodec):
    lossless = True

    def encode(self, tensors: Tensors, writer: Writer, generator: torch.Generator, fed_back: bool) -> None:
        for name in sorted(tensors):
            writer.values(float_bytes(tensors[name]))

    def decode(self, like: Tensors, reader: Reader) -> dict[str, Tensor]:
        return {name: reader.floats(like[name].numel()).view(like[name].shape) for name in sorted(like)}

    def error_bound(self, tensors: Tensors) -> float:
        return 0.0
