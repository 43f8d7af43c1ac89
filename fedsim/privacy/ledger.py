"""What each bank has paid over the whole run: append-only, one account per bank, never rolled back.

The run's epsilon is that of its worst bank, as banks hold different people. Where they do not, a person of several
banks pays at each of them: ``together`` names the banks of such people, what these were charged adds up, and the run's
epsilon and its cap are those of the worst person. The server sees who takes part in a round, so client sampling
amplifies nothing and the steps counted are those that a bank was told to do.
A bank that has not trained has epsilon 0; one that trained without a mechanism has epsilon inf.

A round is charged twice on disk. The *intent* is durable before any job of the round is sent, so that whatever happens
then, the noise that may have left a bank is in the account. The *commit* names what came out. A crash makes the round
run again, and its attempts are counted by these laws, bank by bank:

    every attempt counts, but for those with the same inputs
    of these, attempts with the same output count once: the same bits again tell nobody anything new
    an attempt without an output counts as one more release, unless its inputs decide its bits (seeded noise on a CPU):
    then it was the release that the others made, as long as no two of them have differed
    a torn line at the end of the log counts as one attempt of every bank

So for every schedule of crashes epsilon is at least that of all the distinct releases that left a bank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, TypeAdapter, ValidationError

from fedsim.core.errors import BudgetError
from fedsim.core.messages import Noise, Spend
from fedsim.core.registry import Config
from fedsim.core.sections import Sampling
from fedsim.privacy.accounting import Bound, bound_of, fits, largest, merged, pld_epsilon
from fedsim.privacy.base import Accountant

TORN = "torn line"  # how the inputs of an attempt begin of which nothing else is known


class Log(Protocol):
    """What the ledger is written to: ``fedsim.records.wal.Log``."""

    torn: bool

    @property
    def records(self) -> Sequence[Mapping[str, Any]]: ...
    def append(self, record: Mapping[str, Any]) -> None: ...
    def mend(self, *instead: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Charge:
    """What a round is going to cost."""

    round: int  # from 1, as it is shown
    inputs: str  # a hash of all that decides what will come back
    spends: Mapping[str, Spend | None]  # of every bank that pays; None where it trains without a mechanism
    repeatable: bool = True  # the same inputs give the same bits
    bounds: Mapping[str, float] = field(default_factory=dict)  # what is clipped to, by bank: for whoever checks


class Price(Config):
    """A ``Spend`` on disk."""

    noise_multiplier: float = Field(ge=0)
    sample_rate: float = Field(gt=0, le=1)
    num_steps: int = Field(ge=0)
    sampling: Sampling = "poisson"
    noise: Noise = "gaussian"


class Intent(Config):
    """A charge on disk: a round that is about to be sent out."""

    kind: Literal["intent"] = "intent"
    round: int = Field(ge=0)
    attempt: int = Field(ge=1)
    inputs: str
    repeatable: bool
    banks: Mapping[str, Price | None]
    bounds: Mapping[str, float] = Field(default_factory=dict)

    def spend(self, bank: str) -> Spend | None:
        price = self.banks[bank]
        return None if price is None else Spend(**dict(price))


class Commit(Config):
    """What came out of an attempt: a hash of what left each bank."""

    kind: Literal["commit"] = "commit"
    round: int = Field(ge=0)
    attempt: int = Field(ge=1)
    outputs: Mapping[str, str]


Line: TypeAdapter[Intent | Commit] = TypeAdapter(Annotated[Intent | Commit, Field(discriminator="kind")])
Attempt = tuple[Intent, dict[str, str]]  # and its outputs so far


class Ledger:
    """``delta`` and ``accountant`` are those of the run's mechanism; without a mechanism they are never used.

    ``together``: sets of banks that have a protected person in common.
    With a log the ledger continues what the log holds: BudgetError when that cannot be right.
    """

    def __init__(
        self,
        delta: float = 1e-5,
        accountant: Accountant = "rdp",
        log: Log | None = None,
        together: Sequence[tuple[str, ...]] = (),
    ) -> None:
        self.delta, self.accountant, self._log, self.together = delta, accountant, log, together
        self._attempts: dict[int, list[Attempt]] = {}  # by round
        self._spent: dict[str, tuple[Spend, ...]] = {}
        self._unprotected: set[str] = set()
        for number, record in enumerate(log.records if log else (), start=1):
            self._enter(_line(number, record))

    # ------------------------------------------------------------------------------------------------- charges

    def intend(self, charge: Charge) -> None:
        """Charge a round to its banks before it is sent; it is on the disk when this returns."""
        intent = self._intent(charge)
        if self._log is not None:
            self._log.append(intent.model_dump(mode="json"))
        self._enter(intent)

    def commit(self, round_: int, outputs: Mapping[str, str]) -> None:
        """Note what the last attempt of a round gave away."""
        commit = Commit(round=round_, attempt=len(self._attempts[round_]), outputs=dict(outputs))
        if self._log is not None:
            self._log.append(commit.model_dump(mode="json"))
        self._enter(commit)

    def mend(self, spends: Mapping[str, Spend | None]) -> bool:
        """Charge a torn line of the log to these banks, as one attempt; whether there was one."""
        if self._log is None or not self._log.torn:
            return False
        charge = Charge(max(self._attempts, default=0), f"{TORN} {len(self._log.records) + 1}", spends, False)
        intent = self._intent(charge)
        self._log.mend(intent.model_dump(mode="json"))
        self._enter(intent)
        return True

    def _intent(self, charge: Charge) -> Intent:
        return Intent(
            round=charge.round,
            attempt=len(self._attempts.get(charge.round, ())) + 1,
            inputs=charge.inputs,
            repeatable=charge.repeatable,
            banks={bank: None if spend is None else Price(**asdict(spend)) for bank, spend in charge.spends.items()},
            bounds=dict(charge.bounds),
        )

    def _enter(self, line: Intent | Commit) -> None:
        attempts = self._attempts.setdefault(line.round, [])
        if isinstance(line, Intent):
            before = {bank: _count(attempts, line.inputs, bank) for bank in line.banks}
            attempts.append((line, {}))
            intent, banks = line, list(line.banks)
        else:
            if line.attempt > len(attempts):
                raise BudgetError(f"privacy ledger: a line of round {line.round}, attempt {line.attempt}, is missing")
            intent, outputs = attempts[line.attempt - 1]
            banks = [bank for bank in line.outputs if bank in intent.banks]
            before = {bank: _count(attempts, intent.inputs, bank) for bank in banks}
            outputs.update(line.outputs)
        for bank in banks:
            more = _count(attempts, intent.inputs, bank) - before[bank]
            if more > 0:
                self._add(bank, intent.spend(bank), more)
            elif more < 0:
                self._add_up(bank)

    def _add(self, bank: str, spend: Spend | None, times: int) -> None:
        if spend is None:
            self._unprotected.add(bank)
        else:
            self._spent[bank] = merged([*self.spent(bank), replace(spend, num_steps=times * spend.num_steps)])

    def _add_up(self, bank: str) -> None:
        """From the beginning: an attempt has turned out to be the same as another."""
        self._spent.pop(bank, None)
        for attempts in self._attempts.values():
            for inputs, intent in {intent.inputs: intent for intent, _ in attempts if bank in intent.banks}.items():
                self._add(bank, intent.spend(bank), _count(attempts, inputs, bank))

    # ------------------------------------------------------------------------------------------------ accounts

    def spent(self, bank: str) -> list[Spend]:
        """All that the bank was charged, spends of the same noise and sampling as one."""
        return list(self._spent.get(bank, ()))

    def rounds(self, bank: str) -> list[int]:
        """The rounds that a bank paid for, as often as it paid."""
        paid = []
        for round_, attempts in sorted(self._attempts.items()):
            distinct = {intent.inputs: None for intent, _ in attempts}
            paid += [round_] * sum(_count(attempts, inputs, bank) for inputs in distinct)
        return paid

    def epsilon(self, bank: str) -> float:
        """By the run's accountant."""
        if bank in self._unprotected:
            return math.inf
        return bound_of(self.spent(bank), self.delta, self.accountant).epsilon

    def tight_epsilon(self, bank: str) -> Bound:
        """By PLD, or by RDP where PLD is not computed or not tighter."""
        return Bound(math.inf, "rdp") if bank in self._unprotected else pld_epsilon(self.spent(bank), self.delta)

    def worst(self) -> float:
        """The largest epsilon of any bank, or of any person of several banks: the run's epsilon."""
        alone = [self.epsilon(bank) for bank in self._unprotected | self._spent.keys()]
        shared = [bound_of(self._spent_by(banks), self.delta, self.accountant).epsilon for banks in self.together]
        return max((*alone, *shared), default=0.0)

    def tight_together(self) -> Bound | None:
        """The tight epsilon of the worst person of several banks; None where there is none."""
        return max((pld_epsilon(self._spent_by(banks), self.delta) for banks in self.together), default=None)

    def _spent_by(self, banks: Sequence[str]) -> list[Spend]:
        return [spend for bank in banks for spend in self.spent(bank)]

    # -------------------------------------------------------------------------------------------------- budget

    def allows(self, charge: Charge, cap: float) -> bool:
        """Whether a round may be sent: nobody's epsilon would exceed ``cap``. What was paid for before is free."""
        tried = self._attempts.get(charge.round, [])
        tries = [*tried, (self._intent(charge), dict[str, str]())]
        new: dict[str, Spend] = {}
        for bank, spend in charge.spends.items():
            more = _count(tries, charge.inputs, bank) - _count(tried, charge.inputs, bank)
            more_spend = spend and replace(spend, num_steps=more * spend.num_steps)
            if more and self.would_exceed(bank, more_spend, cap):
                return False
            if more and more_spend:
                new[bank] = more_spend
        paying = [banks for banks in self.together if not new.keys().isdisjoint(banks)]
        totals = [[*self._spent_by(banks), *(new[bank] for bank in banks if bank in new)] for banks in paying]
        return all(fits(total, cap, self.delta, self.accountant) for total in totals)

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


def _count(attempts: Sequence[Attempt], inputs: str, bank: str) -> int:
    """How many releases of a bank its attempts with these inputs may have made."""
    tries = [(intent, outputs) for intent, outputs in attempts if intent.inputs == inputs and bank in intent.banks]
    known = {outputs[bank] for _, outputs in tries if bank in outputs}
    if tries and len(known) <= 1 and all(intent.repeatable for intent, _ in tries):
        return 1
    return len(known) + sum(bank not in outputs for _, outputs in tries)


def _line(number: int, record: Mapping[str, Any]) -> Intent | Commit:
    try:
        return Line.validate_python(dict(record))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BudgetError(
            f"privacy ledger, line {number}: {where}: {first['msg']}; no epsilon can be claimed without it"
        ) from error
