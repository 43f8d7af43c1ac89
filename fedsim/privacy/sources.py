"""Where the random numbers of a mechanism come from.

    Seeded   from the run's seed, so that a run can be repeated bit for bit. Whoever knows the seed can subtract the
             noise and knows which rows were drawn: a simulation of the mechanism, not the mechanism.
    Keyed    the ChaCha20 keystream of a secret key. The key of one vector is derived by HKDF-SHA256 from the run's key,
             and so bound to what decides the released value: scenario, data, round, bank, step and purpose. The same
             noise under two different gradients would give their difference away (2401.17628).

Normals are Box-Muller in float64 from 53-bit uniforms, the average of four over sqrt(4): adding four makes the exact
float of one draw harder to invert from the low bits of a release (Holohan & Braghin, 2107.10138; the attack:
2112.05307). That hardens, it does not prove: epsilon speaks of real numbers.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fedsim.core import seeds
from fedsim.core.errors import SecurityError
from fedsim.core.regular import read_regular

KEY_BYTES = 32
SUMMANDS = 4  # normals added up to one


class Source(Protocol):
    """The draws of one purpose in one step. Asking twice gives the same numbers."""

    def normal(self, numel: int) -> Tensor:
        """(numel,) float64 standard normals."""

    def uniform(self, count: int) -> np.ndarray:
        """(count,) float64 in [0, 1)."""


class Seeded:
    """``Seeded(seed, purpose, *parts)`` draws what ``fedsim.core.seeds`` derives from these."""

    def __init__(self, seed: int, purpose: str, *parts: seeds.Part) -> None:
        self._seed = seeds.derive(seed, purpose, *parts)

    def normal(self, numel: int) -> Tensor:
        # In float64: torch's float32 normals end at 5.8 deviations, which a large adapter reaches within a run.
        return torch.randn(numel, generator=torch.Generator().manual_seed(self._seed), dtype=torch.float64)

    def uniform(self, count: int) -> np.ndarray:
        return np.random.Generator(np.random.PCG64(self._seed)).random(count)


@dataclass(frozen=True, slots=True)
class RunKey:
    """The secret of one run and what its draws are bound to. Pickles to the banks' processes, is never written."""

    secret: bytes = field(repr=False)
    binding: str  # digests of scenario and data

    @classmethod
    def make(cls, file: Path | None, binding: str, run_dir: Path) -> RunKey:
        """From a key file, or new for this run. SecurityError when the file is no secret or lies with the results."""
        if file is None:
            return cls(os.urandom(KEY_BYTES), binding)
        if file.resolve().is_relative_to(run_dir.resolve()):
            raise SecurityError(f"privacy.noise_key: {file} lies in the run directory, which is made to be shared")
        return cls(_read_key(file), binding)

    def check(self) -> str:
        """By this a key is known again; it tells nothing about the draws."""
        return Keyed(replace(self, binding=""), "check").fingerprint()


class Keyed:
    """``Keyed(key, purpose, *parts)``: a keystream of its own for each purpose and parts."""

    def __init__(self, key: RunKey, purpose: str, *parts: seeds.Part) -> None:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        text = "\x1f".join([key.binding, purpose, *(f"{type(part).__name__[0]}{part}" for part in parts)])
        self._key = HKDF(SHA256(), KEY_BYTES, salt=b"fedsim noise", info=text.encode()).derive(key.secret)

    def fingerprint(self) -> str:
        """Of the derived key: 16 hexadecimal digits."""
        return self._stream(8).hex()

    def normal(self, numel: int) -> Tensor:
        pairs = (numel + 1) // 2
        total = np.zeros(2 * pairs)
        uniforms = self.uniform(2 * pairs * SUMMANDS).reshape(SUMMANDS, 2, pairs)
        for first, second in uniforms:
            radius, angle = np.sqrt(-2 * np.log1p(-first)), 2 * np.pi * second  # 1 - first is in (0, 1]
            total += np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return torch.from_numpy(total[:numel] / np.sqrt(SUMMANDS))

    def uniform(self, count: int) -> np.ndarray:
        words = np.frombuffer(self._stream(8 * count), dtype="<u8")
        return (words >> np.uint64(11)).astype(np.float64) / 2**53

    def _stream(self, num_bytes: int) -> bytes:
        from cryptography.hazmat.primitives.ciphers import Cipher
        from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

        # Every key is used for one stream from its start, so the nonce may be constant.
        return Cipher(ChaCha20(self._key, bytes(16)), mode=None).encryptor().update(bytes(num_bytes))


def _read_key(file: Path) -> bytes:
    try:
        mode, secret = file.stat().st_mode, read_regular(file)
    except OSError as error:
        remedy = f"make one with: (umask 077; head -c {KEY_BYTES} /dev/urandom > {file})"
        raise SecurityError(f"privacy.noise_key: {file} cannot be read ({error.strerror}); {remedy}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise SecurityError(
            f"privacy.noise_key: {file} may be read by others (mode {stat.S_IMODE(mode):04o}); chmod 0600 {file}"
        )
    if len(secret) != KEY_BYTES:
        raise SecurityError(f"privacy.noise_key: {file} holds {len(secret)} bytes; {KEY_BYTES} random bytes are needed")
    return secret
