"""The cryptography of secure aggregation, all of it from the ``cryptography`` package.

    key agreement   X25519, its result through HKDF-SHA256 with the purpose of the key
    encryption      ChaCha20-Poly1305; every key seals one message, so the nonce may be constant
    generator       the ChaCha20 keystream of a key

Flower's SecAgg+ folds a seed into 32 bits for a Mersenne Twister, which can be tried out, and never draws R - 1. Here
the seed has 256 bits, and the low bits of keystream words are exactly uniform, R being a power of two.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedsim.core.errors import SecurityError
from fedsim.secagg.ring import Elements, mask_of

KEY_BYTES = 32
TAG_BYTES = 16
NONCE = bytes(12)


def derive(secret: bytes, purpose: str) -> bytes:
    """32 bytes from a secret, for one purpose."""
    return HKDF(SHA256(), KEY_BYTES, salt=b"fedsim secure aggregation", info=purpose.encode()).derive(secret)


def public_key(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, public: bytes, purpose: str) -> bytes:
    """The key that the owners of two key pairs share, the same from either side."""
    own, other = X25519PrivateKey.from_private_bytes(private), X25519PublicKey.from_public_bytes(public)
    return derive(own.exchange(other), purpose)


def seal(key: bytes, message: bytes) -> bytes:
    """Encrypted and authenticated, 16 bytes longer."""
    return ChaCha20Poly1305(key).encrypt(NONCE, message, None)


def unseal(key: bytes, sealed: bytes, what: str) -> bytes:
    """SecurityError when it was not sealed with this key."""
    try:
        return ChaCha20Poly1305(key).decrypt(NONCE, sealed, None)
    except InvalidTag as error:
        raise SecurityError(f"{what} was altered on its way or sealed for someone else") from error


def keystream(key: bytes, num_bytes: int) -> bytes:
    return Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(num_bytes))


def blocks(key: bytes, size: int) -> Iterator[bytes]:
    """Secret random bytes, ``size`` at a time."""
    encryptor = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    while True:
        yield encryptor.update(bytes(size))


def mask(seed: bytes, count: int, ring_bits: int) -> Elements:
    """(count,) uniform ring elements that the seed determines."""
    words = keystream(seed, count * (4 if ring_bits <= 32 else 8))
    return np.frombuffer(words, "<u4" if ring_bits <= 32 else "<u8").astype(np.uint64) & mask_of(ring_bits)
