"""Where a tensor begins in memory decides how a CPU's matrix products round.

MKL gives the same bits for the same factors if they begin at multiples of 64 bytes (oneMKL Developer Guide, "Getting
Started with Conditional Numerical Reproducibility"); torch allocates so. Memory that comes from elsewhere, a mapped
file, a message, the object store, begins anywhere: a product of one row with such a weight may differ in the last bit.
"""

from __future__ import annotations

from torch import Tensor

ALIGNMENT = 64  # bytes


def is_aligned(tensor: Tensor) -> bool:
    return not tensor.is_cpu or tensor.data_ptr() % ALIGNMENT == 0


def aligned(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of it where it lies askew."""
    return tensor if is_aligned(tensor) else tensor.clone()
