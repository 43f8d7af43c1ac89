"""What a run adds up: bytes, steps and epsilon of every bank, told as one row per round and one summary at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedsim.core.events import BankRow, RoundRow
from fedsim.core.messages import Exchange, Spend, Update
from fedsim.engine.evaluation import Evaluated
from fedsim.engine.plan import Plan
from fedsim.privacy.ledger import Ledger


@dataclass(slots=True)
class _BankTotal:
    num_train: int
    bytes_up: int = 0
    bytes_down: int = 0
    num_steps: int = 0
    spend: Spend | None = None  # of the last round; its rate and noise are those of every round
    epsilon: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the last evaluation


class Totals:
    """Fed once per round by the driver. The ledger has been charged before."""

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self._plan, self._ledger = plan, ledger
        self._banks = {bank.name: _BankTotal(bank.num_examples) for bank in plan.banks}
        self._metrics: Mapping[str, float] = {}
        self._rounds = 0

    def add(self, round_: int, exchanges: Sequence[Exchange], evaluated: Evaluated, seconds: float) -> RoundRow:
        """The row of one finished round; ``seconds`` is its duration."""
        updates = {exchange.update.bank: exchange.update for exchange in exchanges}
        for name, update in updates.items():
            total = self._banks[name]
            total.bytes_up += update.bytes_up
            total.bytes_down += update.bytes_down
            total.num_steps += update.num_steps
            total.spend = update.spend
            total.epsilon = self._ledger.epsilon(name)
        self._rounds, self._metrics = round_, evaluated.metrics or self._metrics
        rows = tuple(self._bank_row(round_, name, updates.get(name), evaluated) for name in self._banks)
        return RoundRow(
            round=round_,
            num_rounds=self._plan.num_rounds,
            metrics=evaluated.metrics,
            banks=rows,
            epsilon=max(row.epsilon for row in rows),
            bytes_up=sum(row.bytes_up for row in rows),
            bytes_down=sum(row.bytes_down for row in rows),
            seconds=seconds,
            oracle=_mean_oracle(list(updates.values())),
        )

    def _bank_row(self, round_: int, name: str, update: Update | None, evaluated: Evaluated) -> BankRow:
        metrics = evaluated.banks.get(name, {})
        self._banks[name].metrics = metrics or self._banks[name].metrics
        return BankRow(
            round=round_,
            bank=name,
            participated=update is not None,
            num_train=self._banks[name].num_train,
            num_steps=update.num_steps if update else 0,
            epsilon=self._banks[name].epsilon,
            bytes_up=update.bytes_up if update else 0,
            bytes_down=update.bytes_down if update else 0,
            metrics=metrics,
            oracle=update.oracle if update else {},
        )

    def summary(self, status: str, seconds: float) -> dict[str, object]:
        """The object that ``fedsim run --format json`` prints. An infinite epsilon is None: JSON has no inf."""
        banks = {name: self._bank_summary(name) for name in self._banks}
        return {
            "run_dir": self._plan.run_dir,
            "status": status,
            "rounds": self._rounds,
            "metrics": dict(self._metrics),
            "banks": banks,
            "epsilon": _finite(max(total.epsilon for total in self._banks.values())),
            "bytes_up": sum(total.bytes_up for total in self._banks.values()),
            "bytes_down": sum(total.bytes_down for total in self._banks.values()),
            "seconds": seconds,
        }

    def _bank_summary(self, name: str) -> dict[str, object]:
        total, terms = self._banks[name], self._plan.mechanisms[name].terms
        spend = None
        if total.spend is not None:
            spend = {
                "sample_rate": total.spend.sample_rate,
                "noise_multiplier": total.spend.noise_multiplier,
                "num_steps": total.num_steps,
            }
        return {
            **total.metrics,
            "num_train": total.num_train,
            "epsilon": _finite(total.epsilon),
            "delta": terms.dp_delta if terms else None,
            "spend": spend,
            "bytes_up": total.bytes_up,
            "bytes_down": total.bytes_down,
        }


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None


def _mean_oracle(updates: Sequence[Update]) -> dict[str, float]:
    """Numbers that every participant reports, averaged by number of examples."""
    if not updates:
        return {}
    shared = sorted(set.intersection(*(set(update.oracle) for update in updates)))
    total = sum(update.num_examples for update in updates)
    return {name: math.fsum(update.num_examples * update.oracle[name] for update in updates) / total for name in shared}
