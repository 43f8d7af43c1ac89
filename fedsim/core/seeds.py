"""Every random draw has its own derived seed, so there is no random state to save and no order to keep.

A seed is the first 8 bytes of SHA-256 over the run's seed, the purpose of the draw and what identifies it
(round, bank, step). Two draws share a stream only if all of these are equal. A retry on another machine,
a resumed run and a run on one worker therefore draw the same numbers.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

Part = int | str


def derive(seed: int, purpose: str, *parts: Part) -> int:
    """A seed in [0, 2**63) for one draw. ``parts`` are typed: 1 and "1" give different seeds."""
    text = "\x1f".join([str(seed), purpose, *(f"{type(p).__name__[0]}{p}" for p in parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *parts: Part) -> torch.Generator:
    """A CPU torch generator for one draw."""
    return torch.Generator().manual_seed(derive(seed, purpose, *parts))


def rng(seed: int, purpose: str, *parts: Part) -> np.random.Generator:
    """A NumPy generator (PCG64) for one draw."""
    return np.random.Generator(np.random.PCG64(derive(seed, purpose, *parts)))
