"""Federated methods, one file each; this dict is the only other line a new method needs."""

from fedsim.core.registry import Registry
from fedsim.strategies.base import LocalContext, LocalRule, Outcome, Sheet, Strategy
from fedsim.strategies.fedavg import FedAvg

STRATEGIES: Registry[Strategy] = Registry(
    "strategy",
    Strategy,  # type: ignore[type-abstract]
    {
        "fedavg": FedAvg,
    },
)

__all__ = ["STRATEGIES", "LocalContext", "LocalRule", "Outcome", "Sheet", "Strategy"]
