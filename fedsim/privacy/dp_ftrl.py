"""DP-FTRL by tree aggregation at the level of banks (Kairouz et al., 2103.00039): a trusted server, and no sampling.

Banks take part in turn, in an order that anybody may know: a pass has R = ceil(K / m) rounds of m = round(q K) banks, q
= client_fraction, each bank in one of them. Over the rounds of a pass stands a binary tree. Round t's sum of clipped
updates is its leaf, every node is the sum of its leaves + N(0, (noise_multiplier C)^2), and what is released after t
rounds is the sum of the nodes that the binary digits of t name. The method is given the difference of two such prefix
sums, over m: after t rounds it has seen the sum of t leaves with the noise of at most log2(t) + 1 nodes, not of t.

A bank is in one leaf and in at most h = floor(log2 R) + 1 nodes, so a pass costs it what one Gaussian release with
noise_multiplier / sqrt(h) costs, whatever the order and however leaves depend on what was released before. With the
next pass a new tree begins (the paper's restart), and passes add up. Neighbours are two sets of banks that differ by
one bank whose updates are nothing; amplification by sampling is claimed nowhere, so participation may be public.

Deviations: the noise is that of the plain tree, not of Honaker's estimate; the server's step is the method's own
(FedAvg adds the mean; FedAvgM and FedAdam work on prefix sums, which is post-processing).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from pydantic import Field

from fedsim.core.adapter import Tensors
from fedsim.core.errors import SecurityError
from fedsim.core.messages import Exchange
from fedsim.privacy.base import BankPlan, Curator, Mechanism
from fedsim.privacy.dp_bank_central import BankCurator, DPBankCentral, fixed_size, numel
from fedsim.privacy.gaussian import GaussianTerms, Part
from fedsim.privacy.sources import Keyed, Seeded, Source

TREE = "privacy/tree"  # the seed of the pass's tree among the slots of the server's state
Node = tuple[int, int]  # level, place: it covers rounds place * 2^level to (place + 1) * 2^level - 1 of the pass


class DPFTRL(DPBankCentral):
    promise = (
        "Protected: all that a bank holds, against everybody but the server, which is trusted with clipped updates. "
        "Banks take part in turn and weigh the same; nothing is claimed from sampling."
    )

    class Config(GaussianTerms):
        max_update_norm: float = Field(1.0, gt=0, description="L2 norm of an update that enters a round's sum")

    config: Config  # type: ignore[assignment]

    @classmethod
    def part(cls, config: Any, plan: BankPlan) -> Part:
        return Part(math.sqrt(height(rounds_of_a_pass(plan.num_banks, plan.bank_rate))))

    @classmethod
    def rounds_of_a_bank(cls, num_rounds: int, num_banks: int, bank_rate: float) -> int:
        return math.ceil(num_rounds / rounds_of_a_pass(num_banks, bank_rate))

    @classmethod
    def curator(cls, mechanisms: Mapping[str, Mechanism]) -> Curator:
        (mechanism, *_) = mechanisms.values()
        if not isinstance(mechanism, DPFTRL):
            raise TypeError(f"{type(mechanism).__name__} has another curator")
        return TreeCurator(mechanism)


def rounds_of_a_pass(num_banks: int, bank_rate: float) -> int:
    """R."""
    return math.ceil(num_banks / max(1, round(bank_rate * num_banks)))


def height(num_leaves: int) -> int:
    """h: the most complete nodes that a leaf is in."""
    return num_leaves.bit_length()


def prefix(num_leaves: int) -> Iterator[Node]:
    """The nodes whose sum is that of the first leaves, the largest first: 6 = 4 + 2 gives (2, 0) and (1, 2)."""
    start = 0
    for level in reversed(range(num_leaves.bit_length())):
        if num_leaves >> level & 1:
            yield level, start >> level
            start += 1 << level


class TreeCurator(BankCurator):
    def __init__(self, mechanism: DPFTRL) -> None:
        super().__init__(mechanism)
        plan = mechanism.plan
        self.size, self.num_leaves = fixed_size(plan), rounds_of_a_pass(plan.num_banks, plan.bank_rate)
        self.expected_banks = self.size

    def cohort(self, banks: Sequence[str], seed: int, round_: int) -> list[str]:
        """The banks whose turn it is, in an order that is drawn anew for every pass."""
        number, leaf = divmod(round_, self.num_leaves)
        order = Seeded(seed, "turns", number).uniform(len(banks)).argsort()
        return [banks[index] for index in sorted(order[leaf * self.size : (leaf + 1) * self.size])]

    def paying(self, banks: Sequence[str], cohort: Sequence[str]) -> Sequence[str]:
        """Those whose turn it is: each pays once in a pass, for all nodes that its leaf is in."""
        return cohort

    def release(self, exchanges: Sequence[Exchange], blank: Exchange, slots: Tensors) -> tuple[Exchange, Tensors]:
        number, leaf = divmod(blank.job.round, self.num_leaves)
        seed = int(slots[TREE]) if leaf else blank.job.seed
        noise = torch.zeros(numel(blank), dtype=torch.float64)
        before, after = set(prefix(leaf)), set(prefix(leaf + 1))
        for sign, nodes in ((1, after - before), (-1, before - after)):
            for node in sorted(nodes):
                noise += sign * self.source(seed, number, node).normal(len(noise))
        noisy = self.noisy_mean(exchanges, blank, self.mechanism.bound, noise * self.mechanism.noise_deviation)
        return noisy, {TREE: torch.tensor(seed)}

    def source(self, seed: int, number: int, node: Node) -> Source:
        """Where a node's noise comes from: the same in every round whose prefix sum has the node."""
        if self.mechanism.key is not None:
            return Keyed(self.mechanism.key, "tree noise", number, *node)
        if self.mechanism.config.noise == "secure":
            raise SecurityError("the tree is to draw secure noise and was given no key")
        return Seeded(seed, "tree noise", *node)
