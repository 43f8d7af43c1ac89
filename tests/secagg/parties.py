"""Banks and a server that play one round by their messages, with banks leaving between any two steps."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import torch

from fedsim.secagg import PROTOCOLS
from fedsim.secagg.bank import Bank
from fedsim.secagg.ring import to_ring
from fedsim.secagg.server import Server

RING_BITS = 20
COUNT = 7


def server(num_banks: int, kind: str = "secagg", ring_bits: int = RING_BITS, **knobs: float) -> Server:
    return PROTOCOLS.create(kind, knobs).server(num_banks, ring_bits, np.random.default_rng(3))


def codes(num_banks: int, count: int = COUNT) -> torch.Tensor:
    """(num_banks, count) of both signs."""
    return torch.randint(-30000, 30001, (num_banks, count), generator=torch.Generator().manual_seed(num_banks))


def player(bank: int) -> Bank:
    return Bank(b"secret" + bytes([bank]) * 26)


@dataclass
class Round:
    """All banks have sent their keys; those in ``shared`` their shares. ``sent`` counts bytes by message."""

    server: Server
    shared: Collection[int]
    sent: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        everybody = range(len(self.server.graph))
        self.banks = {bank: player(bank) for bank in everybody}
        self.rosters = self.server.rosters({bank: self.banks[bank].keys() for bank in everybody})
        shares = {bank: self.banks[bank].share(self.rosters[bank]) for bank in self.shared}
        self.mail = self.server.mail(shares)
        self.sent |= {"roster": len(self.rosters[0]), "shares": sum(map(len, shares.values()))}

    def mask(self, bank: int, values: torch.Tensor) -> bytes:
        return self.banks[bank].mask(to_ring(values, self.server.ring_bits), self.rosters[bank], self.mail[bank])

    def finish(self, values: torch.Tensor, arrived: Collection[int], revealing: Collection[int]) -> torch.Tensor:
        """The opened sum of the banks that sent a masked vector. Banks reveal as if for the first time."""
        masked = {bank: self.mask(bank, values[bank]) for bank in arrived}
        present = self.server.present(frozenset(arrived))
        revealed = {bank: player(bank).reveal(self.rosters[bank], self.mail[bank], present[bank]) for bank in revealing}
        self.sent |= {"masked": sum(map(len, masked.values())), "reveal": sum(map(len, revealed.values()))}
        return self.server.open(masked, revealed, values.shape[1])
