"""SecAgg (Bonawitz et al., CCS 2017): every two banks share a mask; cost per bank grows with the number of banks.

Deviation: a server that follows the protocol; the signatures and the consistency check against one that does not are
left out.
"""

from __future__ import annotations

from fedsim.secagg.base import SecureSum


class SecAgg(SecureSum):
    def degree(self, num_banks: int) -> int:
        return num_banks - 1
