"""Which changes a run survives when it goes on, and how it is told to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedsim.core.scenario import Scenario

FREE = ("num_rounds", "resources", "baselines")  # what may change: it reaches no committed bit


@dataclass(frozen=True, slots=True)
class Resume:
    """How a run directory that is not empty is to be treated."""

    wanted: bool = False  # go on with what it holds; else it must be empty
    required: bool = False  # it must hold a run
    steal_lock: bool = False  # even when a process on another machine holds it
    fallback: bool = True  # to the round before, when the newest is damaged
    new_noise: bool = False  # where the noise key is gone


FRESH = Resume()


def refused_changes(then: Mapping[str, Any], scenario: Scenario) -> list[str]:
    """What differs and may not, key by key."""
    now = scenario.portable()
    left, right = dict(_flat(fixed(then))), dict(_flat(fixed(now)))
    changes = [
        f"{key}: {left.get(key, 'not set')} -> {right.get(key, 'not set')}"
        for key in [*left, *(key for key in right if key not in left)]
        if left.get(key) != right.get(key)
    ]
    if then["num_rounds"] != now["num_rounds"]:
        told = f"num_rounds: {then['num_rounds']} -> {now['num_rounds']}"
        if scenario.train.lr_schedule != "constant":
            changes.append(f"{told} (train.lr_schedule is spread over the rounds)")
        if scenario.joins is not None and scenario.joins.column is not None:
            changes.append(f"{told} (joins.column is spread over the rounds)")
        if scenario.privacy.knobs.get("dp_epsilon") and scenario.privacy.knobs.get("noise_multiplier") is None:
            changes.append(f"{told} (the noise is calibrated to the rounds)")
    return changes


def fixed(values: Mapping[str, Any]) -> dict[str, Any]:
    """What may not change."""
    return {key: value for key, value in values.items() if key not in FREE}


def _flat(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf."""
    if isinstance(values, Mapping) and values:
        for name, value in values.items():
            yield from _flat(value, f"{key}.{name}" if key else name)
    elif isinstance(values, list) and any(isinstance(value, Mapping) for value in values):
        for number, value in enumerate(values):
            yield from _flat(value, f"{key}[{number}]")
    else:
        yield key, values
