"""The contract of a secure aggregation protocol: who shares masks with whom, and how many banks open a sum.

The server learns the sum of the banks' quantised updates and nothing else about them. Sizes of banks are public: they
weight the sum. The masks, key agreements and shares of a simulation are real; its parties are not, as all of them run
inside one program.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedsim.core import registry
from fedsim.secagg.graph import neighbourhoods
from fedsim.secagg.ring import Grid
from fedsim.secagg.server import Server

LEAST_BANKS = 3  # of a sum of two, each bank can tell the other's part


class Knobs(registry.Config):
    """Knobs of every protocol."""

    threshold: float = Field(
        2 / 3, gt=0.5, le=1, description="share of the banks, and of each neighbourhood, that must stay to the end"
    )
    bits: int = Field(20, ge=4, le=32, description="of one value before the sum; a sum takes log2(banks) more")
    clip: float = Field(1.0, gt=0, description="values of an update are cut off at -clip and clip")
    dropout: float = Field(0.0, ge=0, lt=1, description="simulated: chance that a bank is gone after sharing its keys")


class SecureSum(ABC):
    """One protocol with this run's knobs."""

    Config: ClassVar[type] = Knobs
    active: ClassVar[bool] = True  # False: the server sees every update

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def degree(self, num_banks: int) -> int:
        """Neighbours of each bank."""

    @property
    def grid(self) -> Grid:
        """Where a mechanism has no grid of its own."""
        return Grid.over(self.config.clip, self.config.bits)

    def least(self, num_banks: int) -> int:
        """Banks that must be present for their sum to be opened."""
        return share_of(self.config.threshold, num_banks)

    def server(self, num_banks: int, ring_bits: int, rng: np.random.Generator) -> Server:
        """The server's half of one round."""
        graph = neighbourhoods(num_banks, self.degree(num_banks), rng)
        thresholds = tuple(share_of(self.config.threshold, len(around) + 1) for around in graph)
        return Server(graph, thresholds, self.least(num_banks), ring_bits)


def share_of(share: float, number: int) -> int:
    """The share rounded up; 2/3 of 12 is 8 whatever floats say."""
    return math.ceil(round(share * number, 9))
