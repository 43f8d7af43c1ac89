"""Keep big blocks of memory between steps: a training step asks for the same ones again and again.

By default glibc maps every large block anew and the kernel clears it page by page, which took 40 % of the time of a
small encoder's steps on two cores. Costs: freed memory stays with the process, up to its peak.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

import torch

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


def forget_peak(device: torch.device) -> int | None:
    """Bytes that are held now, with which a new ``peak`` begins; None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    give_back()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak of the resident set
        return _resident("VmRSS:")
    except OSError:
        return None


def peak(device: torch.device) -> int:
    """The most bytes that were held since ``forget_peak``, which must have told a number."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident("VmHWM:")


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))
