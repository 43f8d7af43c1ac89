"""No secure aggregation: the server sees every bank's update."""

from __future__ import annotations

from typing import ClassVar

from fedsim.core.registry import NoKnobs
from fedsim.secagg.base import SecureSum


class NoSecureSum(SecureSum):
    Config = NoKnobs
    active: ClassVar[bool] = False

    def degree(self, num_banks: int) -> int:
        return 0
