"""Keep big blocks of memory between steps: a training step asks for the same ones again and again.

By default glibc maps every large block anew and the kernel clears it page by page, which took 40 % of the time of a
small encoder's steps on two cores. Costs: freed memory stays with the process, up to its peak.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
BIG, PAD = 1 << 30, 1 << 26  # bytes


def keep_big_blocks() -> bool:
    """Tell this process' allocator; False where it is not glibc's."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all([mallopt(M_MMAP_THRESHOLD, BIG), mallopt(M_TRIM_THRESHOLD, BIG), mallopt(M_TOP_PAD, PAD)])


def give_back() -> None:
    """Let the kernel have whatever is free at this moment."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
