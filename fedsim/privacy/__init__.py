"""What may leave a bank, and what it costs; this dict is the only other line that a new mechanism needs."""

from collections.abc import Mapping
from typing import Any

from fedsim.core.registry import Registry
from fedsim.privacy.accounting import Bound
from fedsim.privacy.base import BankPlan, Curator, Mechanism, Terms
from fedsim.privacy.batch_clip_gaussian import BatchClipGaussian
from fedsim.privacy.dp_bank_adaptive import DPBankAdaptive
from fedsim.privacy.dp_bank_central import DPBankCentral
from fedsim.privacy.dp_bank_distributed import DPBankDistributed
from fedsim.privacy.dp_bank_local import DPBankLocal
from fedsim.privacy.dp_ftrl import DPFTRL
from fedsim.privacy.dp_sgd import DPSGD
from fedsim.privacy.dp_sgd_customer import DPSGDCustomer
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.none import NoPrivacy
from fedsim.privacy.planning import describe

MECHANISMS: Registry[Mechanism] = Registry(
    "privacy mechanism",
    Mechanism,  # type: ignore[type-abstract]
    {
        "batch_clip_gaussian": BatchClipGaussian,
        "dp_bank_adaptive": DPBankAdaptive,
        "dp_bank_central": DPBankCentral,
        "dp_bank_distributed": DPBankDistributed,
        "dp_bank_local": DPBankLocal,
        "dp_ftrl": DPFTRL,
        "dp_sgd": DPSGD,
        "dp_sgd_customer": DPSGDCustomer,
        "none": NoPrivacy,
    },
)


def mechanism_for(kind: str, knobs: Mapping[str, Any], plan: BankPlan) -> Mechanism:
    """One bank's mechanism, its noise calibrated if the knobs ask for it.

    KeyError for an unknown kind, pydantic's ValidationError for bad knobs, PrivacyConfigError when no noise suffices.
    """
    return MECHANISMS[kind](MECHANISMS.config(kind).model_validate(dict(knobs)), plan)


__all__ = ["MECHANISMS", "BankPlan", "Bound", "Curator", "Ledger", "Mechanism", "Terms", "describe", "mechanism_for"]
