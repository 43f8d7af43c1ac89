"""Shares of secrets."""

from __future__ import annotations

from itertools import combinations

import pytest

from fedsim.secagg import primitives, shamir
from fedsim.secagg.shamir import PRIME, combine, split

SECRETS = [bytes(32), b"\xff" * 32, bytes(range(32))]


def coefficients(seed: int = 1):
    return primitives.blocks(bytes([seed]) * 32, shamir.COEFFICIENT_BYTES)


@pytest.mark.parametrize("secret", SECRETS)
def test_any_threshold_of_the_shares_and_no_fewer(secret: bytes) -> None:
    holders = [0, 2, 3, 7, 11]
    shares = split(secret, holders, 3, coefficients())
    for size in (3, 4, 5):
        assert all(combine({h: shares[h] for h in chosen}) == secret for chosen in combinations(holders, size))
    assert all(combine({h: shares[h] for h in chosen}) != secret for chosen in combinations(holders, 2))


def test_by_hand() -> None:
    """Secret 5, polynomial 5 + 2 x: shares 7 and 9."""
    secret = (5).to_bytes(32, "little")
    shares = split(secret, [0, 1], 2, iter([(2).to_bytes(48, "little")]))
    assert [int.from_bytes(share, "little") for share in shares.values()] == [7, 9]
    assert combine(shares) == secret


def test_two_shares_fit_every_secret() -> None:
    """With t - 1 shares each secret has one polynomial through them, so they say nothing."""
    shares = split(SECRETS[2], [0, 1, 2], 3, coefficients())
    known = {0: shares[0], 1: shares[1]}
    for guess in SECRETS:
        # the third share that would make it so: Lagrange at 3 through (0, guess), (1, y1), (2, y2)
        y0, y1, y2 = (int.from_bytes(body, "little") for body in (guess, known[0], known[1]))
        third = (y0 - 3 * y1 + 3 * y2) % PRIME
        assert combine({**known, 2: third.to_bytes(33, "little")}) == guess


def test_shares_of_other_coefficients_differ_and_sizes_are_fixed() -> None:
    one, other = (split(SECRETS[0], range(4), 2, coefficients(seed)) for seed in (1, 2))
    assert one != other
    assert {len(share) for share in one.values()} == {shamir.SHARE_BYTES}


@pytest.mark.parametrize("threshold", [0, 4])
def test_a_threshold_beyond_the_holders_is_refused(threshold: int) -> None:
    with pytest.raises(ValueError, match="between 1 and the 3 holders"):
        split(SECRETS[0], [0, 1, 2], threshold, coefficients())


def test_the_modulus_is_prime() -> None:
    """Miller-Rabin with the first 30 primes as bases."""
    bases = [n for n in range(2, 114) if all(n % m for m in range(2, n))]
    assert len(bases) == 30
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in bases:
        power = pow(base, odd, PRIME)
        chain = [power := power if step == 0 else power * power % PRIME for step in range(twos)]
        assert chain[0] == 1 or PRIME - 1 in chain
