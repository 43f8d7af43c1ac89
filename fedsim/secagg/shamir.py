"""Shamir's secret sharing (1979): a secret of 32 bytes in n shares, of which any t give it back and t - 1 say nothing.

The secret is the constant of a random polynomial of degree t - 1 over the integers modulo 2^256 + 297, the least prime
above all secrets; share x is its value at x, for x = 1 ... n.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33
COEFFICIENT_BYTES = 48  # reduced modulo the prime: 2^-127 from uniform


def split(secret: bytes, holders: Sequence[int], threshold: int, stream: Iterator[bytes]) -> dict[int, bytes]:
    """One share for each holder, a number from 0. ``stream`` gives ``COEFFICIENT_BYTES`` secret random bytes a time."""
    if not 1 <= threshold <= len(holders):
        raise ValueError(f"a threshold must be between 1 and the {len(holders)} holders (got {threshold})")
    constant = int.from_bytes(secret, "little")
    coefficients = [constant, *(int.from_bytes(next(stream), "little") % PRIME for _ in range(threshold - 1))]
    return {holder: _value(coefficients, holder + 1).to_bytes(SHARE_BYTES, "little") for holder in holders}


def _value(coefficients: Sequence[int], x: int) -> int:
    total = 0
    for coefficient in reversed(coefficients):
        total = (total * x + coefficient) % PRIME
    return total


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret from shares by holder: Lagrange's interpolation at 0. Too few shares give an unrelated secret."""
    total: int = 0
    for holder, share in shares.items():
        numerator, denominator = int.from_bytes(share, "little"), 1
        for other in shares.keys() - {holder}:
            numerator = numerator * (other + 1) % PRIME
            denominator = denominator * (other - holder) % PRIME
        total = (total + numerator * pow(denominator, -1, PRIME)) % PRIME
    return int(total % 2**256).to_bytes(SECRET_BYTES, "little")
