"""Sums that show no summand, one protocol per file; this dict is the only other line that a new protocol needs."""

from fedsim.core.registry import Registry
from fedsim.secagg.base import SecureSum
from fedsim.secagg.none import NoSecureSum
from fedsim.secagg.ring import Grid
from fedsim.secagg.secagg import SecAgg
from fedsim.secagg.secagg_plus import SecAggPlus

PROTOCOLS: Registry[SecureSum] = Registry(
    "secure aggregation",
    SecureSum,  # type: ignore[type-abstract]
    {"none": NoSecureSum, "secagg": SecAgg, "secagg_plus": SecAggPlus},
)

__all__ = ["PROTOCOLS", "Grid", "SecureSum"]
