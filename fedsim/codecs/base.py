"""The contract of a codec: tensors to bytes on the wire and back. Bytes are counted on the body, never by formula.

A codec is a chain of stages. Sparsifiers come first: each writes which coordinates travel and hands a shorter vector of
values on. One value codec comes last and writes the values. So [topk, affine] is a support followed by quantised
values, and [] is plain float32.

What a stage is given. A value codec that comes alone sees the tensors under their names and in their shapes.
A sparsifier sees one vector: all values, names in sorted order (``core.adapter.flatten``). What it leaves over has no
shape of its own, so it is handed on in rows of 512 values and one shorter last row: after a sparsifier, a channel of
``affine`` is such a row.

Sender and receiver both know the names and shapes of what is exchanged (``like``), so a body carries no header: float32
is exactly 4 bytes per scalar. Whatever else decoding needs (scales, supports, norms, seeds) is in the body and counts.

Error feedback (Stich et al., 1809.07599; Karimireddy et al., 1901.09847) belongs to the whole chain: what is added to
the next message is u - decode(encode(u)) with the value that the receiver finally reads, so that at every moment
sum(sent) + residual = sum(given). It converges only if the chain is a contraction,
E|u - decode(encode(u))|^2 < |u|^2: random stages are told (``fed_back``) and then shrink their values instead of
keeping them unbiased.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedsim.codecs.wire import Reader, Writer
from fedsim.core.adapter import Tensors, flatten, subtract, unflatten
from fedsim.core.registry import NoKnobs

ROW = 512  # values per row after a sparsifier; the bucket of QSGD's paper


@dataclass(frozen=True, slots=True)
class Payload:
    """One encoded message. ``value_bytes`` leaves out supports, scales and norms: the figure that papers print."""

    body: bytes
    value_bytes: int

    @property
    def num_bytes(self) -> int:
        return len(self.body)


class Stage(ABC):
    """One link of the chain; what the registry holds. It has no state: a residual lives in the sender's ``kept``."""

    Config: ClassVar[type] = NoKnobs
    lossless: ClassVar[bool] = False

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def needs_basis(self) -> bool:
        """True with error feedback: a residual is added to the next message, so coordinates must keep their meaning."""
        return False

    @abstractmethod
    def error_bound(self, tensors: Tensors) -> float:
        """A bound on the L2 norm of decoded - tensors for this stage alone, without feedback, for every draw."""


class Sparsifier(Stage):
    """Chooses the coordinates that travel."""

    @abstractmethod
    def select(self, vector: Tensor, writer: Writer, generator: torch.Generator, fed_back: bool) -> Tensor:
        """(k,) values in the order of their coordinates; writes what ``support`` needs to find these."""

    @abstractmethod
    def support(self, numel: int, reader: Reader) -> Tensor:
        """(k,) int64 coordinates of the values, ascending, out of a vector of ``numel``."""


class ValueCodec(Stage):
    """Writes the values of a mapping of tensors, names in sorted order."""

    @abstractmethod
    def encode(self, tensors: Tensors, writer: Writer, generator: torch.Generator, fed_back: bool) -> None: ...

    @abstractmethod
    def decode(self, like: Tensors, reader: Reader) -> dict[str, Tensor]:
        """Float32 tensors with the names and shapes of ``like``."""


class Codec:
    """A chain of stages: what one direction of the wire uses. Build one with ``fedsim.codecs.pipeline``."""

    def __init__(self, sparsifiers: Sequence[Sparsifier], values: ValueCodec) -> None:
        self.sparsifiers, self.values = tuple(sparsifiers), values

    @property
    def lossless(self) -> bool:
        return all(stage.lossless for stage in (*self.sparsifiers, self.values))

    @property
    def needs_basis(self) -> bool:
        """True with error feedback: refused where the meaning of coordinates changes from round to round."""
        return any(stage.needs_basis for stage in (*self.sparsifiers, self.values))

    def compress(self, tensors: Tensors, kept: Tensors, generator: torch.Generator) -> tuple[Payload, Tensors]:
        """(payload, kept for the next message). ``generator`` drives random rounding or a random support.

        ``kept`` is the sender's residual, by the names of the tensors; residuals of tensors that are not in this
        message wait for one that holds them. ValueError when a lossy codec is given a value that is not finite.
        """
        if not self.lossless:
            _require_finite(tensors)
        given = _with_residual(tensors, kept) if self.needs_basis else tensors
        writer, values = Writer(), given
        for stage in self.sparsifiers:
            values = _rows(stage.select(flatten(values), writer, generator, self.needs_basis))
        self.values.encode(values, writer, generator, self.needs_basis)
        payload = Payload(writer.body, writer.value_bytes)
        if not self.needs_basis:
            return payload, kept
        return payload, {**kept, **subtract(given, self.decompress(payload, given))}

    def decompress(self, payload: Payload, like: Tensors) -> dict[str, Tensor]:
        """Float32 tensors with the names and shapes of ``like``. ValueError when the body does not fit them."""
        reader = Reader(payload.body)
        levels: list[tuple[Tensors, Tensor]] = []  # per sparsifier: what it was given, and the coordinates that it sent
        shapes = like
        for stage in self.sparsifiers:
            support = stage.support(sum(tensor.numel() for tensor in shapes.values()), reader)
            levels.append((shapes, support))
            shapes = _rows(torch.zeros(len(support)))
        tensors = self.values.decode(shapes, reader)
        reader.finish()
        for shapes, support in reversed(levels):
            vector = torch.zeros(sum(tensor.numel() for tensor in shapes.values()))
            vector[support] = flatten(tensors)
            tensors = unflatten(vector, shapes)
        return tensors


def _rows(values: Tensor) -> dict[str, Tensor]:
    """Values left by a sparsifier as (k // 512, 512) and (1, k % 512)."""
    whole = len(values) // ROW * ROW
    return {"values.0": values[:whole].view(-1, ROW), "values.1": values[whole:].view(1, -1)}


def _with_residual(tensors: Tensors, kept: Tensors) -> dict[str, Tensor]:
    """u = given + residual, for the tensors of this message."""
    for name in tensors.keys() & kept.keys():
        if tensors[name].shape != kept[name].shape:
            raise ValueError(
                f"error feedback: the residual of {name!r} has shape {tuple(kept[name].shape)}, the tensor "
                f"{tuple(tensors[name].shape)}: use error feedback only with methods that keep a bank's rank"
            )
    return {name: tensor + kept[name] if name in kept else tensor for name, tensor in tensors.items()}


def _require_finite(tensors: Tensors) -> None:
    for name in sorted(tensors):
        bad = int((~torch.isfinite(tensors[name])).sum())
        if bad:
            raise ValueError(
                f"tensor {name!r} holds {bad} values that are not finite, which a lossy codec cannot encode: "
                "training diverged (lower lr or max_grad_norm)"
            )
