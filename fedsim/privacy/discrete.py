"""The discrete Gaussian, sampled exactly (Canonne, Kamath and Steinke, 2004.00010, Algorithms 1 to 3), many at a time.

P(y) is proportional to exp(-y^2 / (2 sigma^2)) over the integers, for whole sigma. All arithmetic is on integers of 64
bits and every choice is made with the probability that the algorithm asks for, so there is no rounding that an observer
could invert (2112.05307). The time it takes does depend on the values drawn.
"""

from __future__ import annotations

import hashlib

import numpy as np

from fedsim.privacy.sources import Source

MAX_SIGMA = 2**16  # keeps every product below 2^63 for values up to 2^15 sigma


class Words:
    """Random words from a source, as a ChaCha20 keystream: the draws cannot be counted before they are made."""

    def __init__(self, source: Source) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher
        from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

        key = hashlib.sha256(source.uniform(8).tobytes()).digest()  # 8 x 53 bits into 256
        self._encryptor = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()

    def take(self, count: int) -> np.ndarray:
        """(count,) uint64."""
        return np.frombuffer(self._encryptor.update(bytes(8 * count)), "<u8")

    def below(self, limit: int, count: int) -> np.ndarray:
        """(count,) int64 uniform in [0, limit): words that would favour small numbers are drawn again."""
        fair = np.uint64((2**64 // limit * limit) - 1)
        words = self.take(count).copy()
        while (again := np.flatnonzero(words > fair)).size:
            words[again] = self.take(again.size)
        return (words % np.uint64(limit)).astype(np.int64)


def bernoulli_exp(numerators: np.ndarray, denominator: int, words: Words) -> np.ndarray:
    """(n,) bool, true with probability exp(-numerator / denominator)."""
    whole, rest = np.divmod(numerators, denominator)
    result = _bernoulli_exp_below_1(rest, denominator, words)
    alive = np.flatnonzero(result & (whole > 0))
    passed = np.zeros(len(whole), np.int64)
    while alive.size:
        held = _bernoulli_exp_below_1(np.ones(alive.size, np.int64), 1, words)
        result[alive[~held]] = False
        passed[alive] += 1
        alive = alive[held & (passed[alive] < whole[alive])]
    return result


def _bernoulli_exp_below_1(numerators: np.ndarray, denominator: int, words: Words) -> np.ndarray:
    """Algorithm 1 for fractions in [0, 1]: the first k at which a coin of bias fraction / k fails is odd."""
    result = np.zeros(len(numerators), bool)
    alive, k = np.arange(len(numerators)), 1
    while alive.size:
        heads = words.below(denominator * k, alive.size) < numerators[alive]
        result[alive[~heads]] = k % 2 == 1
        alive, k = alive[heads], k + 1
    return result


def discrete_laplace(scale: int, count: int, words: Words) -> np.ndarray:
    """(<= count,) int64 with P(y) proportional to exp(-|y| / scale): those of ``count`` tries that were accepted."""
    low = words.below(scale, count)
    low = low[bernoulli_exp(low, scale, words)]
    high, alive = np.zeros(low.size, np.int64), np.arange(low.size)
    while alive.size:
        alive = alive[_bernoulli_exp_below_1(np.ones(alive.size, np.int64), 1, words)]
        high[alive] += 1
    size, negative = low + scale * high, words.below(2, low.size) == 1
    kept: np.ndarray = np.where(negative, -size, size)[~(negative & (size == 0))]
    return kept


def discrete_gaussian(sigma: int, count: int, source: Source) -> np.ndarray:
    """(count,) int64. ValueError for a sigma outside of 1 ... 2^16."""
    if not 1 <= sigma <= MAX_SIGMA:
        raise ValueError(f"sigma must be between 1 and {MAX_SIGMA} (got {sigma})")
    words, found, missing = Words(source), list[np.ndarray](), count
    while missing > 0:
        tried = discrete_laplace(sigma, 2 * missing + 16, words)
        accepted = tried[bernoulli_exp((np.abs(tried) - sigma) ** 2, 2 * sigma**2, words)][:missing]
        found.append(accepted)
        missing -= accepted.size
    return np.concatenate(found) if found else np.zeros(0, np.int64)
