"""Key agreement, encryption and the mask generator against published vectors."""

from __future__ import annotations

import numpy as np
import pytest

from fedsim.core.errors import FedsimError, SecurityError
from fedsim.secagg import primitives
from fedsim.secagg.wire import Roster, read_table, table


def test_public_keys_are_those_of_rfc_7748() -> None:
    """Section 6.1, Alice and Bob."""
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c5d85b0c7e4e2c3b9d8a0e7e0b1a5")
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    assert primitives.public_key(bob).hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    one = primitives.agree(alice, primitives.public_key(bob), "pair mask")
    assert one == primitives.agree(bob, primitives.public_key(alice), "pair mask")
    assert one != primitives.agree(bob, primitives.public_key(alice), "shares")


def test_the_generator_is_chacha20() -> None:
    """RFC 8439, appendix A.1, test vector 1: the key and nonce of zeros."""
    words = bytes.fromhex("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    assert np.array_equal(primitives.mask(bytes(32), 8, 32), np.frombuffer(words, "<u4"))
    assert np.array_equal(primitives.mask(bytes(32), 8, 20), np.frombuffer(words, "<u4") & 0xFFFFF)
    assert np.array_equal(primitives.mask(bytes(32), 4, 62), np.frombuffer(words, "<u8") & np.uint64(2**62 - 1))
    assert next(primitives.blocks(bytes(32), 48))[:32] == words


def test_sealed_for_one_key_only() -> None:
    sealed = primitives.seal(b"k" * 32, b"share")
    assert len(sealed) == 5 + primitives.TAG_BYTES
    assert primitives.unseal(b"k" * 32, sealed, "it") == b"share"
    with pytest.raises(SecurityError, match="it was altered on its way or sealed for someone else"):
        primitives.unseal(b"q" * 32, sealed, "it")


def test_tables_and_rosters_come_back() -> None:
    records = {5: b"five", 2: b"two."}
    assert table(records) == b"\x02\0two.\x05\0five"
    assert read_table(table(records), 4) == records
    assert read_table(table({7: b"", 1: b""}), 0) == {7: b"", 1: b""}
    roster = Roster(3, 8, 24, {1: bytes(64), 2: b"k" * 64})
    assert Roster.from_bytes(roster.to_bytes()) == roster


@pytest.mark.parametrize("body", [b"\x02\0two", b"\x02\0two.\x02\0two."])
def test_what_is_no_table_is_refused(body: bytes) -> None:
    with pytest.raises(FedsimError, match="is no table of records of 4 bytes"):
        read_table(body, 4)
