"""The messages of secure aggregation as bytes: tables of records of one width, by the number of a bank in its round.

up      keys      two public keys, 64 bytes
        shares    table: sealed shares for each neighbour
        masked    the masked vector, ``ring.pack``
        reveal    table: one share of each bank of the neighbourhood
down    roster    threshold and ring, then a table: the keys of the neighbours
        mail      table: the shares that neighbours sealed for this bank
        present   table of empty records: the banks of the neighbourhood whose masked vector has arrived
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from fedsim.core.errors import FedsimError
from fedsim.secagg.primitives import KEY_BYTES, TAG_BYTES
from fedsim.secagg.shamir import SHARE_BYTES

KEYS = 2 * KEY_BYTES
SEALED = 2 * SHARE_BYTES + TAG_BYTES

_NUMBER = struct.Struct("<H")
_HEAD = struct.Struct("<HHB")


def table(records: Mapping[int, bytes]) -> bytes:
    """Records in the order of their banks, each after its bank's number."""
    return b"".join(_NUMBER.pack(bank) + records[bank] for bank in sorted(records))


def read_table(body: bytes, width: int) -> dict[int, bytes]:
    """The inverse of ``table`` for records of one width. FedsimError when the body is none."""
    size = _NUMBER.size + width
    rows = [body[at : at + size] for at in range(0, len(body), size)]
    records = {_NUMBER.unpack_from(row)[0]: row[_NUMBER.size :] for row in rows if len(row) == size}
    if len(body) % size or len(records) != len(rows):
        raise FedsimError(f"a message of {len(body)} bytes is no table of records of {width} bytes")
    return records


@dataclass(frozen=True, slots=True)
class Roster:
    """What a bank is told of its round: its own number, how many shares open a secret, the ring, its neighbours."""

    bank: int
    threshold: int
    ring_bits: int
    keys: Mapping[int, bytes]  # of the neighbours

    def to_bytes(self) -> bytes:
        return _HEAD.pack(self.bank, self.threshold, self.ring_bits) + table(self.keys)

    @classmethod
    def from_bytes(cls, body: bytes) -> Roster:
        if len(body) < _HEAD.size:
            raise FedsimError(f"a roster of {len(body)} bytes is too short")
        bank, threshold, ring_bits = _HEAD.unpack_from(body)
        return cls(bank, threshold, ring_bits, read_table(body[_HEAD.size :], KEYS))
