"""Gauges of a run on a cluster, which Ray exports on its metrics ports for Prometheus, as ``ray_<name>``.

What is exported leaves the hands of who runs it: sums and the worst bank only, unless ``resources.bank_gauges`` asks
for banks by name. A number that is not finite is not exported.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from functools import cache
from typing import Any

from fedsim.core.events import BankDone, Event, Failed, RoundRow, Started

GAUGES = {
    "fedsim_rounds_planned": ("Rounds that the run will have", ("run",)),
    "fedsim_round": ("Rounds that are over", ("run",)),
    "fedsim_round_seconds": ("Seconds that the last round took", ("run",)),
    "fedsim_banks_done": ("Banks of the current round that have answered", ("run",)),
    "fedsim_banks_asked": ("Banks of the current round", ("run",)),
    "fedsim_loss": ("Mean training loss of the last round", ("run",)),
    "fedsim_metric": ("The global model on everyone's test rows", ("run", "metric")),
    "fedsim_epsilon": ("Epsilon that the worst bank has spent", ("run",)),
    "fedsim_bytes_up": ("Bytes from banks to server so far", ("run",)),
    "fedsim_bytes_down": ("Bytes from server to banks so far", ("run",)),
    "fedsim_failures": ("Attempts at a bank's work that failed so far", ("run", "cause")),
}
BANK_GAUGES = {
    "fedsim_bank_epsilon": ("Epsilon that a bank has spent", ("run", "bank")),
    "fedsim_bank_metric": ("The bank's model on its own test rows", ("run", "bank", "metric")),
}


def gauged(events: Generator[Event, None, None], name_banks: bool) -> Generator[Event, None, None]:
    """The same events; the gauges follow them. To be used where Ray is connected."""
    gauges = Gauges(name_banks)
    with closing(events):
        for event in events:
            gauges.take(event)
            yield event


class Gauges:
    """Of one run."""

    def __init__(self, name_banks: bool = False) -> None:
        self._name_banks, self._run = name_banks, ""
        self._total = Counter[str]()

    def take(self, event: Event) -> None:
        if isinstance(event, Started):
            self._run = event.name
            self._set("fedsim_rounds_planned", event.num_rounds)
        elif isinstance(event, BankDone):
            self._set("fedsim_banks_done", event.done)
            self._set("fedsim_banks_asked", event.total)
        elif isinstance(event, Failed):
            self._total[event.cause] += 1
            self._set("fedsim_failures", self._total[event.cause], cause=event.cause)
        elif isinstance(event, RoundRow):
            self._round(event)

    def _round(self, row: RoundRow) -> None:
        self._total.update(up=row.bytes_up, down=row.bytes_down)
        self._set("fedsim_round", row.round)
        self._set("fedsim_round_seconds", row.seconds)
        self._set("fedsim_banks_done", 0)
        self._set("fedsim_loss", row.oracle.get("loss", math.nan))
        self._set("fedsim_epsilon", row.epsilon)
        self._set("fedsim_bytes_up", self._total["up"])
        self._set("fedsim_bytes_down", self._total["down"])
        for metric, value in row.metrics.items():
            self._set("fedsim_metric", value, metric=metric)
        for bank in row.banks if self._name_banks else ():
            self._set("fedsim_bank_epsilon", bank.epsilon, bank=bank.bank)
            for metric, value in bank.metrics.items():
                self._set("fedsim_bank_metric", value, bank=bank.bank, metric=metric)

    def _set(self, name: str, value: float, **tags: str) -> None:
        if math.isfinite(value):
            _gauge(name).set(value, tags={"run": self._run, **tags})


@cache
def _gauge(name: str) -> Any:
    """One per process and name: Ray keeps every one that is made."""
    from ray.util.metrics import Gauge

    description, tag_keys = (GAUGES | BANK_GAUGES)[name]
    return Gauge(name, description=description, tag_keys=tag_keys)
