"""SecAgg+ (Bell et al., CCS 2020): each bank shares masks with k random others; cost grows with log(banks).

The paper's k for a given risk is O(log n) and exceeds a hundred for strong parameters and thousands of clients; with a
dozen banks choose as many as there are, or ``secagg``. A k that reaches all banks is SecAgg.

Deviation: a server that follows the protocol, as in ``secagg``; it opens nothing when the banks that are left do not
hang together, as then the sums of parts would show.
"""

from __future__ import annotations

from pydantic import Field

from fedsim.secagg.base import Knobs, SecureSum


class SecAggPlus(SecureSum):
    class Config(Knobs):
        neighbours: int = Field(8, ge=2, multiple_of=2, description="banks that a bank shares masks with")

    config: Config

    def degree(self, num_banks: int) -> int:
        return min(self.config.neighbours, num_banks - 1)
