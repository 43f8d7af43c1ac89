"""RoLoRA (Chen et al., 2502.01755): B and A take turns, one round each, and the other is frozen.

Even rounds (0, 2, ...) train and average B, odd rounds A. Laws: the frozen factor is bitwise constant within a round;
B comes first, because the gradient of A is zero while B is; in every round the product is the exact mean of the
banks' products, since one factor is common to all.

Deviations: the head, where a model has one, is trained and averaged in every round. A bank that missed a round is
sent the factor that changed meanwhile. Moments of the local optimizer start fresh.
"""

from __future__ import annotations

from fedsim.core.adapter import factor
from fedsim.strategies.base import LocalRule, Sheet
from fedsim.strategies.fedavg import FedAvg


class RoLoRARule(LocalRule):
    def trains(self, name: str, round_: int) -> bool:
        return factor(name) in ("head", "B" if round_ % 2 == 0 else "A")


class RoLoRA(FedAvg):
    sheet = Sheet(
        title="RoLoRA (alternating factors)",
        source="2502.01755",
        trains="B in even rounds, A in odd ones, head",
        up="the factor trained, head",
        down="the factor that changed, head",
        exact="yes",
        state="none",
        sums_only=True,
        needs_factors=True,
    )

    def rule(self) -> LocalRule:
        return RoLoRARule()
