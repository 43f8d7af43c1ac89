"""One copy of a frozen network for all processes of a machine.

One process hands out its weights as bytes; the others, which have loaded the same ones, put these bytes in the place of
their own and let those go. The bytes may be read-only memory that belongs to somebody else: nothing writes into a
frozen weight. Own weights and others' are aligned alike (``core.aligned``), so that they give the same bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.core.aligned import aligned, is_aligned

Place = tuple[Any, str]  # an object, and its attribute that holds a tensor


def frozen_bytes(network: nn.Module) -> list[np.ndarray]:
    """Every distinct frozen tensor of a network on the CPU, as flat uint8 views."""
    return [_bytes(getattr(*places[0])).numpy() for places in _groups(network)]


def align(network: nn.Module) -> None:
    """Copy every frozen tensor that begins anywhere, as those of a mapped file do, to where torch would put it."""
    for places in _groups(network):
        mine = getattr(*places[0]).detach()
        if not is_aligned(mine):
            whole = aligned(mine)
            for owner, name in places:
                setattr(owner, name, whole)


def adopt(network: nn.Module, weights: Sequence[np.ndarray]) -> int:
    """Use ``weights``, which ``frozen_bytes`` of an equal network gave, and let the network's own go.

    Returns how many bytes are shared now: a tensor stays as it is where their bytes differ or are not aligned.
    """
    shared = 0
    for places, theirs in zip(_groups(network), weights, strict=True):
        mine = getattr(*places[0])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            found = torch.from_numpy(theirs)
        if is_aligned(found) and torch.equal(found, _bytes(mine)):
            for owner, name in places:
                setattr(owner, name, found.view(mine.dtype).view(mine.shape))
            shared += len(theirs)
    return shared


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _groups(network: nn.Module) -> list[list[Place]]:
    """The places of each distinct block of memory, in module order."""
    groups: dict[int, list[Place]] = {}
    for owner, name in _places(network):
        tensor = getattr(owner, name, None)
        if isinstance(tensor, Tensor) and tensor.numel():
            groups.setdefault(tensor.data_ptr(), []).append((owner, name))
    return list(groups.values())


def _places(network: nn.Module) -> Iterator[Place]:
    """Where a network may hold a frozen tensor, with bitsandbytes' own places for 8-bit and 4-bit weights."""
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            yield parameter, "data"
            yield parameter, "CB"
            quant_state = getattr(parameter, "quant_state", None)
            while quant_state is not None:
                yield quant_state, "absmax"
                quant_state = getattr(quant_state, "state2", None)
        yield getattr(module, "state", None), "CB"  # where an 8-bit layer moves it in its first pass
