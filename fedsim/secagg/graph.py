"""Who shares masks with whom in a round.

Bonawitz et al. (CCS 2017): everybody with everybody. SecAgg+ (Bell et al., CCS 2020): a random k-regular graph, the
ring of all banks in random order, each bound to the k / 2 nearest on either side (a Harary graph, which stays
connected after any k - 1 banks are gone). Every bank then has k neighbours however many banks there are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

Graph = tuple[frozenset[int], ...]  # neighbours of each bank, itself left out


def neighbourhoods(num_banks: int, degree: int, rng: np.random.Generator) -> Graph:
    """The graph of a round. A degree that reaches everybody gives the complete graph; ``degree`` is even."""
    if degree >= num_banks - 1:
        return tuple(frozenset(range(num_banks)) - {bank} for bank in range(num_banks))
    if degree < 2 or degree % 2:
        raise ValueError(f"neighbours must be even and at least 2 (got {degree})")
    order = [int(bank) for bank in rng.permutation(num_banks)]
    near = [step for half in range(1, degree // 2 + 1) for step in (half, -half)]
    around = {bank: frozenset(order[(at + step) % num_banks] for step in near) for at, bank in enumerate(order)}
    return tuple(around[bank] for bank in range(num_banks))


def is_connected(graph: Graph, banks: Collection[int]) -> bool:
    """Whether these banks hang together. If they do not, the masks of each part cancel, and parts can be opened."""
    left = set(banks)
    reached: Sequence[int] = sorted(left)[:1]
    while reached:
        left -= set(reached)
        reached = sorted(left & set().union(*(graph[bank] for bank in reached)))
    return not left
