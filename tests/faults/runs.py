"""A run of three banks over two rounds, and what it leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedsim.core.errors import FedsimError
from fedsim.core.events import Event, Failed, RoundRow, Served
from fedsim.core.sections import Failures
from fedsim.engine.driver import Driver
from fedsim.engine.plan import Plan
from fedsim.engine.pool import InlinePool, Pool
from fedsim.engine.resources import Actors
from tests.engine import fakes


def plan(failures: Failures | None = None, num_rounds: int = 2) -> Plan:
    return replace(fakes.plan(num_rounds=num_rounds), failures=failures or Failures())


@dataclass
class Run:
    """``error`` is what ended it before its time."""

    events: list[Event]
    ledger: dict[str, list[int]]  # by bank the rounds (from 1) that it was charged for
    error: FedsimError | None = None

    @classmethod
    def of(cls, plan: Plan, pool: Pool) -> Run:
        driver = Driver(plan, pool)
        run = cls([], {})
        try:
            for event in driver.run():
                run.events.append(event)
        except FedsimError as error:
            run.error = error
        run.ledger = {info.name: driver.ledger.rounds(info.name) for info in plan.infos}
        return run

    @classmethod
    def inline(cls, plan: Plan, faults: Path | None, banks_per_actor: int = 1) -> Run:
        client = fakes.make_client(plan, faults)()
        return cls.of(plan, InlinePool(client, Actors(banks_per_actor=banks_per_actor)))

    def _all(self, kind: type) -> Iterator[Any]:
        return (event for event in self.events if isinstance(event, kind))

    @property
    def failed(self) -> list[Failed]:
        return list(self._all(Failed))

    @property
    def rows(self) -> list[RoundRow]:
        return list(self._all(RoundRow))

    @property
    def hash(self) -> str:
        """Of the global adapter at the end; "none" when the run did not get there."""
        for served in self._all(Served):
            tensors = served.adapter.tensors
            return hashlib.sha256(b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))).hexdigest()
        return "none"

    def charged(self, bank: str) -> list[int]:
        """The rounds (from 1) that a bank was charged for."""
        return self.ledger[bank]
