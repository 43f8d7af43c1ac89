"""What lies below the lowest adapted layer is computed once per row: nothing that is trained can change it.

With ``lora.layers_to_transform: [4, 5]`` the blocks 0 to 3 of a six-block encoder give a row the same activations in
every step of every round at every bank. ``FrozenPrefix`` splits the network there, ``Activations`` holds what it gives.

What is held must not depend on who asks first, or two actors would compute other bits than one. So rows are computed in
groups that are fixed before the run, and a row in no group is computed anew with its batch. MOST_BYTES bounds what one
process holds: the first groups that fit, in an order that is fixed before the run, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.models.lora import CohortLinear

MOST_BYTES = 1 << 30


def find_prefix(network: nn.Module) -> FrozenPrefix | None:
    """The part below the lowest adapted block; None when there is none, or when a layer outside of blocks is adapted.

    The blocks are the first ``ModuleList`` that holds every adapted layer: ``encoder.layer`` of BERT, ``model.layers``
    of Llama, ``transformer.h`` of GPT-2.
    """
    adapted = [name for name, module in network.named_modules() if isinstance(module, CohortLinear)]
    for name, blocks in network.named_modules():
        if adapted and isinstance(blocks, nn.ModuleList) and all(path.startswith(f"{name}.") for path in adapted):
            lowest = min(int(path[len(name) + 1 :].split(".")[0]) for path in adapted)
            return FrozenPrefix(blocks, lowest) if lowest else None
    return None


class _ReachedError(Exception):
    """Ends a forward pass at the top of the prefix."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class FrozenPrefix:
    """The first ``height`` blocks of a network, which can be run alone or left out."""

    def __init__(self, blocks: nn.ModuleList, height: int) -> None:
        self.height = height
        self.given: Tensor | None = None
        self.stops = False
        for number in range(height):
            blocks[number] = _Skippable(blocks[number], self, is_top=number == height - 1)

    @torch.no_grad()
    def record(self, forward: Callable[[], object]) -> Tensor:
        """(n, t, d) what the prefix gives to the rest of the network in the pass that ``forward`` makes."""
        self.stops = True
        try:
            forward()
        except _ReachedError as reached:
            return reached.hidden
        finally:
            self.stops = False
        raise RuntimeError("the forward pass did not run the blocks")

    @contextmanager
    def replaced(self, hidden: Tensor) -> Iterator[None]:
        """Passes made inside start from these activations, (n, t, d)."""
        self.given = hidden
        try:
            yield
        finally:
            self.given = None


class _Skippable(nn.Module):
    """A block of the prefix. Attributes are those of the block, as networks read them."""

    def __init__(self, block: nn.Module, prefix: FrozenPrefix, is_top: bool) -> None:
        super().__init__()
        self.block, self.is_top = block, is_top
        self._prefix = [prefix]  # in a list: nothing that torch would register
        self.returns_tuple = False

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # as each architecture calls its blocks
        prefix = self._prefix[0]
        if prefix.given is not None:
            return (prefix.given,) if self.returns_tuple else prefix.given
        out = self.block(*args, **kwargs)
        self.returns_tuple = isinstance(out, tuple)
        if prefix.stops and self.is_top:
            raise _ReachedError(out[0] if self.returns_tuple else out)
        return out


class Activations:
    """What the prefix gave for rows by id, in one buffer.

    ``groups`` are ids that are computed together, by ``compute(ids) -> (tokens of these rows, d)``: row after row,
    without padding. ``lengths`` (ids,) are the rows' tokens. Nothing is computed before it is asked for.
    """

    def __init__(
        self, groups: Sequence[np.ndarray], lengths: np.ndarray, compute: Callable[[np.ndarray], Tensor]
    ) -> None:
        self._groups, self._lengths, self._compute = groups, lengths, compute
        self._group = np.full(len(lengths), -1)  # of every id
        for number, ids in enumerate(groups):
            self._group[ids] = number
        self._starts = np.zeros(len(lengths), dtype=np.int64)
        self._done = np.zeros(len(groups), dtype=bool)
        self._buffer: Tensor | None = None  # (tokens + 1, d), the last one zero

    def has(self, groups: Sequence[np.ndarray]) -> bool:
        """Whether it was made of these groups."""
        return len(groups) == len(self._groups) and all(map(np.array_equal, groups, self._groups))

    def known(self, ids: np.ndarray) -> np.ndarray:
        """(len(ids),) which of these rows are held, once they have been computed."""
        if self._buffer is None and len(ids):
            self._allocate()
        held: np.ndarray = self._group[ids] >= 0
        return held

    def take(self, ids: np.ndarray, width: int, left: bool) -> Tensor:
        """(n, width, d) of rows that are ``known``, padded with zeros; the missing ones are computed first."""
        for number in np.unique(self._group[ids]):
            if not self._done[number]:
                self._hold(int(number), self._compute(self._groups[number]))
        buffer = self._need_buffer()
        lengths, starts = self._lengths[ids][:, None], self._starts[ids][:, None]
        place = np.arange(width)[None, :] - (width - lengths if left else 0)  # within the row
        index = np.where((place >= 0) & (place < lengths), starts + place, len(buffer) - 1)
        found = buffer.index_select(0, torch.from_numpy(index.ravel()).to(buffer.device))
        return found.view(len(ids), width, buffer.shape[1])

    def _allocate(self) -> None:
        """Decide what is held. Memory is only touched as rows arrive."""
        if not len(self._groups):
            return
        first = self._compute(self._groups[0])
        most = MOST_BYTES // (first.element_size() * first.shape[1])
        tokens = np.cumsum([self._lengths[ids].sum() for ids in self._groups])
        for ids, end in zip(self._groups, tokens, strict=True):
            own = self._lengths[ids]
            self._starts[ids] = end - own.sum() + np.concatenate([[0], own.cumsum()[:-1]])
            if end > most:
                self._group[ids] = -1
        total = int(tokens[tokens <= most].max(initial=0))
        self._buffer = first.new_empty(total + 1, first.shape[1])
        self._buffer[-1] = 0
        if total:
            self._hold(0, first)

    def _hold(self, number: int, hidden: Tensor) -> None:
        start = self._starts[self._groups[number][0]]
        self._need_buffer()[start : start + len(hidden)] = hidden
        self._done[number] = True

    def _need_buffer(self) -> Tensor:
        if self._buffer is None:
            raise RuntimeError("take() of rows that are not known()")
        return self._buffer
