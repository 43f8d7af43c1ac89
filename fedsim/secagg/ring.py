"""The arithmetic of secure sums: float vectors as integers on one public grid, added modulo a power of two.

    quantise   w v / step, rounded at random so that its mean is exact, cut off at +-max_code
    ring       Z_R with R = 2^ring_bits >= 2 n max_code + 1, so that a sum of n codes can be read without ambiguity
    pack       one element in ring_bits bits: 20 bits for 12 banks of 16 bits, where float32 takes 32

The grid is the same at every bank, as codes on grids of their own have no sum. A bank's weight w = n_k / max n_j is at
most 1 and multiplies values that are cut off already, so a large bank's values are not cut off earlier than others'.
The other order, and weights above 1, are what Flower's SecAgg+ does to banks with more rows than its ``max_weight``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedsim.core.errors import FedsimError

Elements = npt.NDArray[np.uint64]  # ring elements, in [0, 2^ring_bits)

MAX_BITS = 62  # two elements are added before they are reduced


@dataclass(frozen=True, slots=True)
class Grid:
    """Codes are integers in [-max_code, max_code] that stand for multiples of ``step``."""

    step: float
    max_code: int
    exact: bool = False  # values are multiples of the step but for float32: none is rounded, weighted or cut off

    @classmethod
    def over(cls, clip: float, bits: int) -> Grid:
        """2^bits - 1 codes over [-clip, clip]; zero is one of them."""
        return cls(clip / (2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1)

    @property
    def limit(self) -> float:
        """Values beyond it are cut off."""
        return self.max_code * self.step

    def ring_bits(self, num_banks: int) -> int:
        """The least bits of a ring in which so many banks can be added. OverflowError where none is offered."""
        bits = (2 * num_banks * self.max_code).bit_length()
        require_room(bits, num_banks, self.max_code)
        return bits

    def encode(self, values: Tensor, weight: float, draws: torch.Generator) -> Tensor:
        """(d,) int64 codes of weight * values; ``weight`` is in (0, 1], on an exact grid 1. ValueError on NaN."""
        if not (weight == 1 or (0 < weight < 1 and not self.exact)):
            raise ValueError(f"a weight must be in (0, 1], relative to the largest bank (got {weight})")
        if not bool(torch.isfinite(values).all()):
            raise ValueError("values that are not finite cannot be quantised")
        if self.exact:
            return (values.double() / self.step).round().long()
        scaled = values.double().clamp(-self.limit, self.limit) * (weight / self.step)
        low = scaled.floor()
        up = torch.rand(low.shape, generator=draws, dtype=torch.float64) < scaled - low
        return (low.long() + up).clamp(-self.max_code, self.max_code)

    def decode(self, total: Tensor, weight: float) -> Tensor:
        """(d,) float32: a sum of codes over the sum of weights."""
        return (total.double() * (self.step / weight)).float()


def require_room(ring_bits: int, num_banks: int, max_code: int) -> None:
    """The overflow guard. OverflowError when the sum of so many codes could wrap round, or the ring is too large."""
    if ring_bits > MAX_BITS or 2**ring_bits <= 2 * num_banks * max_code:
        raise OverflowError(
            f"a sum of {num_banks} codes up to {max_code} does not fit a ring of {ring_bits} bits "
            f"(at most {MAX_BITS}); use fewer bits per value"
        )


def to_ring(codes: Tensor, ring_bits: int) -> Elements:
    """Negative codes lie in the upper half."""
    return codes.numpy().astype(np.uint64) & mask_of(ring_bits)


def from_ring(elements: Elements, ring_bits: int) -> Tensor:
    """int64 in [-R / 2, R / 2)."""
    half = np.int64(1) << np.int64(ring_bits - 1)
    signed = ((elements & mask_of(ring_bits)).astype(np.int64) + half) % (2 * half) - half
    return torch.from_numpy(signed)


def mask_of(ring_bits: int) -> np.uint64:
    """R - 1. Sums of uint64 wrap round at 2^64, so ``& mask_of`` reduces them."""
    return np.uint64((1 << ring_bits) - 1)


def packed_bytes(count: int, ring_bits: int) -> int:
    return (count * ring_bits + 7) // 8


def pack(elements: Elements, ring_bits: int) -> bytes:
    """Elements as a dense stream of bits, lowest bit first; the last byte is filled with zeros."""
    raw = np.ascontiguousarray(elements.astype("<u8")).view(np.uint8).reshape(-1, 8)
    bits = np.unpackbits(raw, axis=1, bitorder="little", count=ring_bits)  # (count, ring_bits)
    return bytes(np.packbits(bits, bitorder="little"))


def unpack(body: bytes, ring_bits: int, count: int) -> Elements:
    """The inverse of ``pack``. FedsimError when the body is not that of ``count`` elements."""
    if len(body) != packed_bytes(count, ring_bits):
        wanted = packed_bytes(count, ring_bits)
        raise FedsimError(f"a masked vector of {count} values of {ring_bits} bits has {wanted} bytes, not {len(body)}")
    stream = np.unpackbits(np.frombuffer(body, np.uint8), bitorder="little", count=count * ring_bits)
    raw = np.packbits(stream.reshape(count, ring_bits), axis=1, bitorder="little")
    padded = np.zeros((count, 8), np.uint8)
    padded[:, : raw.shape[1]] = raw
    return padded.view("<u8").reshape(-1).astype(np.uint64)
