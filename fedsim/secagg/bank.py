"""The bank's half of secure aggregation for one round (Bonawitz et al., CCS 2017, Figure 4; Bell et al., CCS 2020).

    keys     X25519 pairs for encryption and for masks; the public keys are sent
    share    a self-mask seed b and the private mask key s, each Shamir-shared among the neighbourhood (the neighbours
             and the bank itself), sealed for each neighbour
    mask     y = x + PRG(b) + sum over v > u PRG(s_uv) - sum over v < u PRG(s_uv) mod R, v the neighbours that shared
    reveal   of a neighbour that is present a share of its b, of one that is not a share of its s, never of both

Everything follows from one secret, so a bank is the same in whichever process it is played, and holds nothing but the
answer that it has given: it reveals for one set of present banks, and never for a second.

The server is taken to follow the protocol and to be curious. Against one that tells banks different things, the
original adds signatures and a consistency check, which are not part of this simulation.
"""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.core.errors import QuorumError, SecurityError
from fedsim.secagg import primitives, ring, shamir
from fedsim.secagg.ring import Elements
from fedsim.secagg.wire import KEYS, SEALED, Roster, read_table, table


class Bank:
    """``secret`` is known to this bank alone and used in one round only."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._cipher_key = primitives.derive(secret, "cipher key")
        self._mask_key = primitives.derive(secret, "mask key")
        self._self_seed = primitives.derive(secret, "self mask")
        self._revealed: bytes | None = None

    def keys(self) -> bytes:
        """Public keys: cipher, then mask."""
        return primitives.public_key(self._cipher_key) + primitives.public_key(self._mask_key)

    def share(self, roster: bytes) -> bytes:
        """Shares of both secrets for each neighbour, sealed."""
        told = Roster.from_bytes(roster)
        of_seed, of_key = self._shares(told)
        sealed = {}
        for other in told.keys:
            key = self._cipher(told, other, sender=told.bank)
            sealed[other] = primitives.seal(key, of_seed[other] + of_key[other])
        return table(sealed)

    def mask(self, codes: Elements, roster: bytes, mail: bytes) -> bytes:
        """The masked vector, packed."""
        told, shared = Roster.from_bytes(roster), read_table(mail, SEALED)
        masked = codes + primitives.mask(self._self_seed, len(codes), told.ring_bits)
        for other in shared:
            seed = pair_seed(self._mask_key, told.keys[other])
            pair = primitives.mask(seed, len(codes), told.ring_bits)
            masked = masked + pair if other > told.bank else masked - pair
        return ring.pack(masked & ring.mask_of(told.ring_bits), told.ring_bits)

    def reveal(self, roster: bytes, mail: bytes, present: bytes) -> bytes:
        """One share of every bank of the neighbourhood that shared. QuorumError when too few of them are present.

        SecurityError when asked for a second set of present banks, or when mail was altered.
        """
        told, sealed = Roster.from_bytes(roster), read_table(mail, SEALED)
        if self._revealed not in (None, present):
            raise SecurityError(f"bank {told.bank} was asked to reveal shares for two sets of present banks")
        self._revealed = present
        alive = read_table(present, 0).keys()
        require_enough(len(alive), len(sealed) + 1, told.threshold)
        of_seed, of_key = self._shares(told)
        revealed = {told.bank: (of_seed if told.bank in alive else of_key)[told.bank]}
        for other, body in sealed.items():
            what = f"the share that bank {other} sealed for bank {told.bank}"
            both = primitives.unseal(self._cipher(told, other, sender=other), body, what)
            revealed[other] = both[: shamir.SHARE_BYTES] if other in alive else both[shamir.SHARE_BYTES :]
        return table(revealed)

    def _shares(self, told: Roster) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """Shares of the self-mask seed and of the mask key, by holder."""
        holders = sorted([told.bank, *told.keys])
        of_seed = shamir.split(self._self_seed, holders, told.threshold, self._coefficients("self mask"))
        of_key = shamir.split(self._mask_key, holders, told.threshold, self._coefficients("mask key"))
        return of_seed, of_key

    def _coefficients(self, purpose: str) -> Iterator[bytes]:
        return primitives.blocks(primitives.derive(self._secret, f"polynomial of {purpose}"), shamir.COEFFICIENT_BYTES)

    def _cipher(self, told: Roster, other: int, sender: int) -> bytes:
        """The key of the one message that goes from ``sender`` to the other of the two."""
        purpose = f"shares of {sender} for {other if sender == told.bank else told.bank}"
        return primitives.agree(self._cipher_key, told.keys[other][: KEYS // 2], purpose)


def pair_seed(private: bytes, keys: bytes) -> bytes:
    """What two banks mask with: from the private mask key of one and the public keys of the other."""
    return primitives.agree(private, keys[KEYS // 2 :], "pair mask")


def require_enough(present: int, num_banks: int, threshold: int) -> None:
    """QuorumError when fewer than ``threshold`` banks of a neighbourhood of ``num_banks`` are present."""
    if present < threshold:
        raise QuorumError(
            f"secure aggregation: {present} of {num_banks} banks are present and {threshold} are needed to open "
            "their sum; nothing was opened (lower secure_aggregation.threshold, or have more banks answer)"
        )
