"""The contract of a codec: tensors to bytes on the wire and back. Bytes are counted on the encoded body, never by formula.

Sender and receiver both know the names and shapes of what is exchanged (``like``), so a body carries no header: float32
is exactly 4 bytes per scalar. Whatever else decoding needs (scales, indices, bitmaps, norms) is in the body and is counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from fedsim.core.adapter import Tensors
from fedsim.core.registry import NoKnobs


@dataclass(frozen=True, slots=True)
class Payload:
    """One encoded message."""

    body: bytes

    @property
    def num_bytes(self) -> int:
        return len(self.body)


class Codec(ABC):
    """Encodes a mapping of tensors (names in sorted order). ``kept`` is the sender's private state (a residual)."""

    Config: ClassVar[type] = NoKnobs
    lossless: ClassVar[bool] = False
    needs_basis: ClassVar[bool] = False  # keeps a residual from round to round: refused where the basis changes

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def compress(self, tensors: Tensors, kept: Tensors, generator: torch.Generator) -> tuple[Payload, Tensors]:
        """(payload, kept for the next message). ``generator`` drives random rounding or a random support."""

    @abstractmethod
    def decompress(self, payload: Payload, like: Tensors) -> dict[str, torch.Tensor]:
        """Float32 tensors with the names and shapes of ``like``. ValueError when the body's length does not fit."""
