"""Bytes and back: float32, packed integer codes, variable-length integers and sets of coordinates.

Everything is little-endian. A ``Writer`` keeps apart the values themselves and what it costs to say where and how they
lie (supports, scales, norms): papers print the first figure, a network carries both. A ``Reader`` walks through a body
once and raises ValueError as soon as the body is shorter, longer or other than what the message must be.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Codes = npt.NDArray[np.uint8]  # one integer per entry
Raw = npt.NDArray[np.uint8]  # one byte per entry

FULL, BITMAP, GAPS = range(3)  # how a support is written, its first byte


class Writer:
    """Collects a body from its parts, in the order in which they will be read."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.value_bytes = 0

    def values(self, raw: bytes) -> None:
        """Bytes that stand for values: counted in the figure that papers print."""
        self._parts.append(raw)
        self.value_bytes += len(raw)

    def overhead(self, raw: bytes) -> None:
        """Bytes without which the values could not be placed or scaled."""
        self._parts.append(raw)

    @property
    def body(self) -> bytes:
        return b"".join(self._parts)


class Reader:
    """Takes a body apart."""

    def __init__(self, body: bytes) -> None:
        self._body: Raw = np.frombuffer(body, np.uint8)
        self._at = 0

    def take(self, count: int) -> Raw:
        """The next ``count`` bytes."""
        raw = self._body[self._at : self._at + count]
        if len(raw) < count:
            raise ValueError(f"the message ends after {len(self._body)} bytes, {count - len(raw)} too early")
        self._at += count
        return raw

    def floats(self, count: int) -> Tensor:
        """The next ``count`` float32 values, (count,)."""
        raw = self.take(4 * count)
        values = torch.empty(count)  # memory of torch's (``core.aligned``)
        values.numpy()[:] = raw.view("<f4")
        return values

    def codes(self, count: int, bits: int) -> Tensor:
        """The next ``count`` codes of ``bits`` bits as float64, (count,)."""
        return torch.from_numpy(unpack(self.take(packed_bytes(count, bits)), bits, count).astype(np.float64))

    def varints(self, count: int) -> npt.NDArray[np.int64]:
        """The next ``count`` variable-length integers."""
        if count == 0:
            return np.zeros(0, np.int64)
        ends = np.flatnonzero(self._body[self._at :] < 0x80)[:count]  # the last byte of each has no high bit
        if len(ends) < count:
            raise ValueError(f"the message ends after {len(self._body)} bytes, before {count} integers were read")
        starts = np.concatenate([[0], ends[:-1] + 1])
        if int((ends - starts).max()) > 8:
            raise ValueError("the message holds an integer of more than 9 bytes: it is not one of ours")
        raw = self.take(int(ends[-1]) + 1).astype(np.int64)
        place = np.arange(len(raw)) - np.repeat(starts, ends - starts + 1)  # 0 for the lowest 7 bits
        return np.add.reduceat((raw & 0x7F) << (7 * place), starts)

    def finish(self) -> None:
        """ValueError when bytes are left over."""
        left = len(self._body) - self._at
        if left:
            raise ValueError(f"the message has {left} bytes more than its tensors need: sender and receiver disagree")


def float_bytes(tensor: Tensor) -> bytes:
    """float32, 4 bytes per value."""
    return tensor.detach().float().contiguous().numpy().astype("<f4").tobytes()


def packed_bytes(count: int, bits: int) -> int:
    return (count * bits + 7) // 8


def pack(codes: Codes, bits: int) -> bytes:
    """Codes in [0, 2**bits), bits <= 8, as a dense stream of bits, lowest bit first; the last byte is filled with 0."""
    single_bits = np.unpackbits(codes.reshape(-1, 1), axis=1, count=bits, bitorder="little")  # (count, bits)
    return bytes(np.packbits(single_bits, bitorder="little"))


def unpack(raw: Raw, bits: int, count: int) -> Codes:
    """The inverse of ``pack`` for ``count`` codes."""
    single_bits = np.unpackbits(raw, count=count * bits, bitorder="little").reshape(count, bits)
    return np.packbits(single_bits, axis=1, bitorder="little").reshape(count)


def varint_bytes(numbers: npt.NDArray[np.int64]) -> bytes:
    """Unsigned integers in 7-bit groups, lowest first, the high bit set on all but the last (LEB128)."""
    groups = max(1, (int(numbers.max(initial=0)).bit_length() + 6) // 7)
    rest = numbers.reshape(-1, 1) >> (7 * np.arange(groups))  # (count, groups)
    needed = rest > 0
    needed[:, 0] = True
    more = np.zeros_like(needed)
    more[:, :-1] = needed[:, 1:]
    return bytes(((rest & 0x7F) | (more << 7)).astype(np.uint8)[needed])


def bitmap_bytes(support: Tensor, numel: int) -> bytes:
    """One bit per coordinate: ceil(numel / 8) bytes, whatever the size of the support."""
    present = np.zeros(numel, bool)
    present[support.numpy()] = True
    return np.packbits(present, bitorder="little").tobytes()


def support_bytes(support: Tensor, numel: int) -> bytes:
    """Ascending coordinates out of ``numel``, in the shortest of three forms, named by the first byte.

    FULL: every coordinate, nothing more. BITMAP: one bit per coordinate. GAPS: the number of coordinates, then how many
    are skipped before each, as varints: 1 byte per coordinate while gaps stay under 128, so it is shorter than the
    bitmap below a density of about 1/8 (4-byte indices would be so only below 1/32).
    """
    if len(support) == numel:
        return bytes([FULL])
    if 8 * len(support) < numel:  # a gap costs at least one byte
        skipped = np.diff(support.numpy(), prepend=-1) - 1
        gaps = varint_bytes(np.array([len(support)])) + varint_bytes(skipped)
        if len(gaps) < (numel + 7) // 8:
            return bytes([GAPS]) + gaps
    return bytes([BITMAP]) + bitmap_bytes(support, numel)


def read_support(reader: Reader, numel: int) -> Tensor:
    """The inverse of ``support_bytes``: int64, ascending, (k,)."""
    form = int(reader.take(1)[0])
    if form == FULL:
        return torch.arange(numel)
    if form == BITMAP:
        return torch.from_numpy(
            np.flatnonzero(np.unpackbits(reader.take((numel + 7) // 8), bitorder="little", count=numel))
        )
    if form != GAPS:
        raise ValueError(f"the message writes its support in form {form}; known forms are {FULL}, {BITMAP} and {GAPS}")
    count = int(reader.varints(1)[0])
    if count > numel:
        raise ValueError(f"the message claims {count} coordinates out of {numel}")
    gaps = reader.varints(count)
    if count and int(gaps.max()) >= numel:
        raise ValueError(f"the message skips {int(gaps.max())} coordinates out of {numel}")
    support = np.cumsum(gaps + 1) - 1
    if count and int(support[-1]) >= numel:
        raise ValueError(f"the message names coordinate {int(support[-1])} out of {numel}")
    return torch.from_numpy(support)
