"""What each bank has paid over the whole run: append-only, one account per bank, never rolled back.

Banks hold different people, so accounts are not added: the run's epsilon is that of its worst bank. The server sees who
takes part in a round, so client sampling amplifies nothing and the steps counted are those that a bank executed.
A bank that has not trained has epsilon 0; one that trained without a mechanism has epsilon inf.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from pydantic import Field, ValidationError

from fedsim.core.errors import CheckpointError
from fedsim.core.messages import Spend
from fedsim.core.registry import Config
from fedsim.core.scenario import Sampling
from fedsim.privacy.accounting import Bound, bound_of, fits, largest, merged, pld_epsilon
from fedsim.privacy.base import Accountant


class Entry(Config):
    """One charge as it is written to disk; without a noise multiplier the bank trained without a mechanism."""

    round: int = Field(ge=0)
    bank: str
    noise_multiplier: float | None = Field(None, ge=0)
    sample_rate: float = Field(1.0, gt=0, le=1)
    num_steps: int = Field(0, ge=0)
    sampling: Sampling = "poisson"

    @property
    def spend(self) -> Spend | None:
        if self.noise_multiplier is None:
            return None
        return Spend(self.noise_multiplier, self.sample_rate, self.num_steps, self.sampling)


class Ledger:
    """``delta`` and ``accountant`` are those of the run's mechanism; without a mechanism they are never used."""

    def __init__(self, delta: float = 1e-5, accountant: Accountant = "rdp") -> None:
        self.delta, self.accountant = delta, accountant
        self._entries: list[Entry] = []
        self._spent: dict[str, tuple[Spend, ...]] = {}
        self._unprotected: set[str] = set()

    def charge(self, round_: int, bank: str, spend: Spend | None) -> None:
        """Enter one bank's work in one round; None when it trained without a mechanism."""
        self._enter(Entry(round=round_, bank=bank, **(asdict(spend) if spend else {})))

    def _enter(self, entry: Entry) -> None:
        self._entries.append(entry)
        if entry.spend is None:
            self._unprotected.add(entry.bank)
        else:
            self._spent[entry.bank] = merged([*self.spent(entry.bank), entry.spend])

    def spent(self, bank: str) -> list[Spend]:
        """All that the bank was charged, spends of the same noise and sampling as one."""
        return list(self._spent.get(bank, ()))

    def epsilon(self, bank: str) -> float:
        """By the run's accountant."""
        if bank in self._unprotected:
            return math.inf
        return bound_of(self.spent(bank), self.delta, self.accountant).epsilon

    def tight_epsilon(self, bank: str) -> Bound:
        """By PLD, or by RDP where PLD is not computed or not tighter."""
        return Bound(math.inf, "rdp") if bank in self._unprotected else pld_epsilon(self.spent(bank), self.delta)

    def worst(self) -> float:
        """The largest epsilon of any bank: the run's epsilon."""
        return max((self.epsilon(bank) for bank in self._unprotected | self._spent.keys()), default=0.0)

    def would_exceed(self, bank: str, spend: Spend | None, cap: float) -> bool:
        """Whether one more ``spend`` would take the bank above ``cap``; nothing exceeds an infinite cap."""
        if math.isinf(cap):
            return False
        if spend is None or bank in self._unprotected:
            return True
        return not fits([*self.spent(bank), spend], cap, self.delta, self.accountant)

    def rounds_within(self, bank: str, spend_per_round: Spend | None, cap: float, max_rounds: int) -> int:
        """How many more rounds of ``spend_per_round``, at most ``max_rounds``, the bank can afford."""

        def affordable(rounds: int) -> bool:
            spend = spend_per_round and replace(spend_per_round, num_steps=rounds * spend_per_round.num_steps)
            return not self.would_exceed(bank, spend, cap)

        return largest(max_rounds, affordable)

    def entries(self) -> list[dict[str, Any]]:
        """Every charge in order, as plain rows for a file."""
        return [entry.model_dump() for entry in self._entries]

    @classmethod
    def replay(cls, entries: Iterable[Mapping[str, Any]], delta: float, accountant: Accountant) -> Ledger:
        """The ledger that wrote these rows. CheckpointError names the first row that cannot be read."""
        ledger = cls(delta, accountant)
        for number, row in enumerate(entries, start=1):
            try:
                ledger._enter(Entry.model_validate(dict(row)))
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"])
                raise CheckpointError(
                    f"privacy ledger, row {number}: {where}: {first['msg']} (got {first['input']!r}); "
                    "restore the ledger from a checkpoint: no epsilon can be claimed without it"
                ) from error
        return ledger
