"""What may leave a bank, and what it costs; this dict is the only other line that a new mechanism needs."""

from collections.abc import Mapping
from typing import Any

from fedsim.core.registry import Registry
from fedsim.privacy.accounting import Bound
from fedsim.privacy.base import BankPlan, Mechanism, Terms
from fedsim.privacy.dp_sgd import DPSGD
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.none import NoPrivacy
from fedsim.privacy.planning import describe

MECHANISMS: Registry[Mechanism] = Registry(
    "privacy mechanism",
    Mechanism,  # type: ignore[type-abstract]
    {
        "dp_sgd": DPSGD,
        "none": NoPrivacy,
    },
)


def mechanism_for(kind: str, knobs: Mapping[str, Any], plan: BankPlan) -> Mechanism:
    """One bank's mechanism, its noise calibrated if the knobs ask for it.

    KeyError for an unknown kind, pydantic's ValidationError for bad knobs, PrivacyConfigError when no noise suffices.
    """
    return MECHANISMS[kind](MECHANISMS.config(kind).model_validate(dict(knobs)), plan)


__all__ = ["MECHANISMS", "BankPlan", "Bound", "Ledger", "Mechanism", "Terms", "describe", "mechanism_for"]
