"""Sums near the data: updates are added up where they were made, and the driver is sent sums of them.

The sum of a round is one binary tree over the banks that are sent a job, in bank order: leaf i is the i-th bank's term,
node (level, i) is (level - 1, 2i) + (level - 1, 2i + 1), or the one of them that there is. An actor adds up what lies
in its own call, the driver the rest as it comes. Who adds which node reaches no bit of the sum, and the driver never
holds all updates: a few nodes of every call.

A term is n_k times an update (or 1 times it, where banks weigh alike), in float64: exact, so that identical banks are
averaged exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedsim.core.adapter import Tensors
from fedsim.core.messages import Update
from fedsim.strategies.base import from_slots, to_slots

Node = tuple[int, int]  # (level, index in it)
Nodes = Mapping[Node, Tensors]
DELTA, SLOTS = "delta", "slots"


@dataclass(frozen=True, slots=True)
class Summand:
    """What comes with a job whose update is to be added up where it is made."""

    place: int  # of the bank in the round's order
    weight: float


@dataclass(slots=True)
class Tree:
    """The nodes of a sum that are known, as few as there can be."""

    nodes: dict[Node, Tensors] = field(default_factory=dict)

    def add(self, node: Node, tensors: Tensors) -> None:
        level, index = node
        while (other := self.nodes.pop((level, index ^ 1), None)) is not None:
            tensors = {name: tensor + other[name] for name, tensor in tensors.items()}
            level, index = level + 1, index // 2
        self.nodes[level, index] = tensors

    def total(self) -> Tensors:
        """The sum of all that was added, which is not nothing. No other node will come: one alone stands for both."""
        while len(self.nodes) > 1:
            level, index = min(self.nodes)
            self.add((level + 1, index // 2), self.nodes.pop((level, index)))
        return next(iter(self.nodes.values()))


def term(update: Update, weight: float) -> dict[str, Tensor]:
    """What an update adds to the sum."""
    return {
        name: weight * tensor.double()
        for name, tensor in {**to_slots(DELTA, update.delta), **to_slots(SLOTS, update.slots)}.items()
    }


def mean(total: Tensors, weight: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(delta, slots) of the mean of terms whose weights add up to ``weight``, in float32."""
    found = {name: (tensor / weight).to(torch.float32) for name, tensor in total.items()}
    return from_slots(DELTA, found), from_slots(SLOTS, found)
