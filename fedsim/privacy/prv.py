"""A third opinion on epsilon: privacy random variables (Gopi et al., 2106.02848) as Opacus computes them, within a time
limit.

PRV is as tight as PLD and was written by other people, so that the two agree says something. It may overflow or not end
for little noise or many steps, and a clock would make its answer depend on the machine: so it charges nothing, is
only shown, and where it gives no answer the RDP bound stands in its place, under its own name.

Run as a script this module reads one JSON object from stdin and prints epsilon; it imports nothing of fedsim then.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsim.core.messages import Spend
    from fedsim.privacy.accounting import Bound

TIME_LIMIT_S = 30.0


def prv_epsilon(spends: Iterable[Spend], delta: float, limit_s: float = TIME_LIMIT_S) -> Bound:
    """Upper bound by Opacus' PRV accountant, or the RDP bound where that fails, has no analysis, or takes too long.

    Computed in a process of its own: a numerical loop inside a library can be ended in no other way.
    """
    from fedsim.privacy.accounting import Bound, has_loss_distribution, merged, rdp_epsilon

    total = merged(spends)
    fallback = Bound(rdp_epsilon(total, delta), "rdp")
    if not all(map(has_loss_distribution, total)) or not 0 < fallback.epsilon < math.inf:
        return fallback
    history = [(spend.noise_multiplier, spend.sample_rate, spend.num_steps) for spend in total]
    asked = json.dumps({"history": history, "delta": delta})
    command = [sys.executable, "-P", "-W", "error::RuntimeWarning", __file__]
    try:
        answer = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=limit_s, check=True)
        epsilon = float(answer.stdout)
    except (subprocess.SubprocessError, ValueError):
        return fallback
    return Bound(epsilon, "prv") if 0 <= epsilon < math.inf else fallback


def prv_of(asked: dict[str, Any]) -> float:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [tuple(entry) for entry in asked["history"]]
    return float(accountant.get_epsilon(asked["delta"]))


if __name__ == "__main__":
    sys.stdout.write(f"{prv_of(json.load(sys.stdin))}\n")
