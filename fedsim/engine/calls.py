"""What slots are asked and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedsim.engine.failures import Cause

Ref = Any  # ray.ObjectRef


@dataclass(frozen=True, slots=True)
class Call:
    """One call that any slot may serve. ``what`` names it in errors."""

    what: str
    method: str
    args: tuple[Any, ...]
    num_returns: int = 1
    key: int = 0  # for the caller, as are the next two
    banks: tuple[int, ...] = ()
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Done:
    """``value`` is the call's first result; ``others`` are references to the rest, which nobody has fetched."""

    call: Call
    value: Any
    others: list[Ref]
    seconds: float


@dataclass(frozen=True, slots=True)
class Broken:
    """The call has failed and is no longer in the queue."""

    call: Call
    cause: Cause


Limit = Callable[[str], float | None]
"""Seconds that a call of this method may take; None: any time."""
