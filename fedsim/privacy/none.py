"""No privacy: every row counts in full, nothing is added, and epsilon is infinite."""

from __future__ import annotations

from fedsim.core.messages import Spend
from fedsim.privacy.base import Mechanism


class NoPrivacy(Mechanism):
    def spend(self, num_steps: int) -> Spend | None:
        return None
