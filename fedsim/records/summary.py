"""The object at the end of a run. Other programs read it: keys may be added, those below stay.

    {"run_dir", "status", "rounds", "metrics": {"auc", ...},
     "banks": {name: {"auc", ..., "num_train", "epsilon", "epsilon_pld", "epsilon_pld_method", "delta",
                      "spend": {"sample_rate", "noise_multiplier", "num_steps"}, "bytes_up", "bytes_down"}},
     "epsilon", "epsilon_pld", "epsilon_pld_method", "bytes_up", "bytes_down", "seconds"}

``bit_identity`` is there, and "not claimed", when the run was resumed with other versions, CPUs or threads.

``metrics`` are the last evaluation's; a bank's stand beside its other values. Bytes are of the whole run.

``epsilon`` is what the run's accountant has charged and its cap obeyed; ``epsilon_pld`` is the tight value for the same
steps, and ``epsilon_pld_method`` says "rdp" where no tighter one was computed. Outside ``banks`` they are the worst
bank's, or of the worst customer where customers are protected and have rows at several banks: its banks' charges add
up. They and ``delta`` are null where nothing is promised, ``epsilon_pld`` also in a run that did not come to its
end. ``spend`` is what the accountant was told: where rows are protected, the local steps; with a bank-level mechanism,
one a round. Without a mechanism it has noise_multiplier 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedsim.core.events import BankRow, BankSummary, RoundRow, Started

Tight = Mapping[str, tuple[float, str]]  # bank -> epsilon and how it was computed


@dataclass(slots=True)
class _Total:
    """One bank so far."""

    bank: BankSummary
    num_steps: int = 0
    num_releases: int = 0
    epsilon: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the last evaluation

    def add(self, row: BankRow) -> None:
        self.num_steps += row.num_steps
        self.num_releases = row.num_releases
        self.epsilon = row.epsilon
        self.bytes_up += row.bytes_up
        self.bytes_down += row.bytes_down
        self.metrics = row.metrics or self.metrics

    def result(self, tight: tuple[float, str] | None) -> dict[str, Any]:
        bank, (epsilon_pld, method) = self.bank, tight or (math.inf, None)
        promises = bank.delta is not None and bank.noise_multiplier > 0 and math.isfinite(self.epsilon)
        is_tight = promises and math.isfinite(epsilon_pld)
        return {
            **self.metrics,
            "num_train": bank.num_train,
            "epsilon": self.epsilon if promises else None,
            "epsilon_pld": epsilon_pld if is_tight else None,
            "epsilon_pld_method": method if is_tight else None,
            "delta": bank.delta if promises else None,
            "spend": {
                "sample_rate": bank.sample_rate,
                "noise_multiplier": bank.noise_multiplier,
                "num_steps": self.num_releases or self.num_steps,
            },
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
        }


class Summary:
    """A run as it adds up: fed with its rows, of which it keeps none."""

    def __init__(self, started: Started) -> None:
        self._run_dir = started.run_dir
        self._totals = {bank.name: _Total(bank) for bank in started.banks}
        self._metrics: Mapping[str, float] = {}
        self._rounds = self._bytes_up = self._bytes_down = 0
        self._is_fed = False
        self._epsilon = 0.0  # of the worst bank or customer

    def add(self, row: RoundRow) -> None:
        """A finished round."""
        self._is_fed = True
        for bank in row.banks:
            self._totals[bank.bank].add(bank)
        self._metrics = row.metrics or self._metrics
        self._rounds, self._epsilon = row.round, row.epsilon
        self._bytes_up += row.bytes_up
        self._bytes_down += row.bytes_down

    def releases(self) -> dict[str, int]:
        """By bank the ``num_releases`` of its last row; {} before the first."""
        return {name: total.num_releases for name, total in self._totals.items()} if self._is_fed else {}

    def result(
        self, status: str, seconds: float, tight: Tight | None = None, shared: tuple[float, str] | None = None
    ) -> dict[str, object]:
        """The object as it stands now. ``seconds`` is the wall-clock time.

        ``tight`` is of every bank, or not known; ``shared`` of the worst customer of several banks, if there is one.
        """
        banks = {name: total.result(tight[name] if tight else None) for name, total in self._totals.items()}
        worst, worst_pld = _worst(banks, "epsilon")["epsilon"], _worst(banks, "epsilon_pld")
        tightest = (worst_pld["epsilon_pld"], worst_pld["epsilon_pld_method"])
        if tightest[0] is not None and shared is not None:
            tightest = max(tightest, shared)
        return {
            "run_dir": self._run_dir,
            "status": status,
            "rounds": self._rounds,
            "metrics": dict(self._metrics),
            "banks": banks,
            "epsilon": None if worst is None else max(worst, self._epsilon),
            "epsilon_pld": tightest[0],
            "epsilon_pld_method": tightest[1],
            "bytes_up": self._bytes_up,
            "bytes_down": self._bytes_down,
            "seconds": seconds,
        }


def _worst(banks: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """The bank with the largest value; one to which nothing is promised is worse than all others."""
    return max(banks.values(), key=lambda bank: math.inf if bank[name] is None else bank[name])
