"""The server's half of secure aggregation for one round: it passes messages on and learns the sum.

    rosters   from everybody's public keys, what each bank is told of its neighbours
    mail      from everybody's sealed shares, what each bank is sent
    present   after the masked vectors: for each bank that sent one, who of its neighbourhood did
    open      from the sum of masked vectors and the revealed shares, the sum of the codes mod R

A bank may be gone at any point. One that sent no shares is in nobody's masks; one that sent no masked vector leaves
pair masks behind, which are removed with its private mask key; one that does not reveal is not needed, as long as
``threshold`` members of each neighbourhood do.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from fedsim.core.errors import QuorumError, SecurityError
from fedsim.secagg import primitives, shamir
from fedsim.secagg.bank import pair_seed, require_enough
from fedsim.secagg.graph import Graph, is_connected
from fedsim.secagg.primitives import KEY_BYTES
from fedsim.secagg.ring import Elements, from_ring, unpack
from fedsim.secagg.shamir import SHARE_BYTES
from fedsim.secagg.wire import SEALED, Roster, read_table, table


class Server:
    """``thresholds`` per bank of its neighbourhood, ``least`` of all banks. Messages are by the number of the bank."""

    def __init__(self, graph: Graph, thresholds: tuple[int, ...], least: int, ring_bits: int) -> None:
        self.graph, self.thresholds, self.least, self.ring_bits = graph, thresholds, least, ring_bits
        self._keys: Mapping[int, bytes] = {}
        self._shared: frozenset[int] = frozenset()

    def rosters(self, keys: Mapping[int, bytes]) -> dict[int, bytes]:
        """By bank that sent its keys."""
        self._keys = keys
        made = {}
        for bank in keys:
            neighbours = {other: keys[other] for other in sorted(self.graph[bank] & keys.keys())}
            require_enough(len(neighbours) + 1, len(self.graph[bank]) + 1, self.thresholds[bank])
            made[bank] = Roster(bank, self.thresholds[bank], self.ring_bits, neighbours).to_bytes()
        return made

    def mail(self, shares: Mapping[int, bytes]) -> dict[int, bytes]:
        """By bank that sent its shares."""
        require_enough(len(shares), len(self.graph), self.least)
        self._shared = frozenset(shares)
        sealed = {bank: read_table(body, SEALED) for bank, body in shares.items()}
        return {bank: table({other: sealed[other][bank] for other in self._neighbours(bank)}) for bank in shares}

    def present(self, arrived: frozenset[int]) -> dict[int, bytes]:
        """By bank whose masked vector has arrived. QuorumError when the sum of these may not be opened."""
        require_enough(len(arrived), len(self.graph), self.least)
        if not is_connected(self.graph, arrived):
            raise QuorumError(
                f"secure aggregation: the {len(arrived)} banks that are left no longer share masks with each other, "
                "so parts of their sum would show; nothing was opened (raise secure_aggregation.neighbours)"
            )
        for bank in self._shared:
            around = self._neighbours(bank) | {bank}
            require_enough(len(around & arrived), len(around), self.thresholds[bank])
        return {bank: table(dict.fromkeys((self._neighbours(bank) | {bank}) & arrived, b"")) for bank in arrived}

    def open(self, masked: Mapping[int, bytes], revealed: Mapping[int, bytes], count: int) -> Tensor:
        """(count,) int64: the sum of the codes of the banks in ``masked``, in [-R / 2, R / 2)."""
        shares: dict[int, dict[int, bytes]] = {}
        for holder, body in revealed.items():
            for owner, share in read_table(body, SHARE_BYTES).items():
                shares.setdefault(owner, {})[holder] = share
        total = np.zeros(count, np.uint64)
        for body in masked.values():
            total = total + unpack(body, self.ring_bits, count)
        for bank in sorted(self._shared):
            held = shares.get(bank, {})
            require_enough(len(held), len(self._neighbours(bank)) + 1, self.thresholds[bank])
            secret = shamir.combine(dict(sorted(held.items())[: self.thresholds[bank]]))
            if bank in masked:
                total = total - primitives.mask(secret, count, self.ring_bits)
            else:
                total = total + self._left_behind(bank, secret, masked, count)
        return from_ring(total, self.ring_bits)

    def _left_behind(self, gone: int, mask_key: bytes, masked: Mapping[int, bytes], count: int) -> Elements:
        """What cancels the masks that the banks in ``masked`` have put on for one that is gone."""
        if primitives.public_key(mask_key) != self._keys[gone][KEY_BYTES:]:
            raise SecurityError(f"the shares of bank {gone} do not give its key: a share is wrong")
        total = np.zeros(count, np.uint64)
        for bank in self._neighbours(gone) & masked.keys():
            pair = primitives.mask(pair_seed(mask_key, self._keys[bank]), count, self.ring_bits)
            total = total + pair if bank > gone else total - pair
        return total

    def _neighbours(self, bank: int) -> frozenset[int]:
        """Those that shared."""
        return self.graph[bank] & self._shared
