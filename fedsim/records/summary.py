"""The object at the end of a run. Other programs read it: keys may be added, those below stay.

    {"run_dir", "status", "rounds", "metrics": {"auc", ...},
     "banks": {name: {"auc", ..., "num_train", "epsilon", "delta",
                      "spend": {"sample_rate", "noise_multiplier", "num_steps"}, "bytes_up", "bytes_down"}},
     "epsilon", "bytes_up", "bytes_down", "seconds"}

``metrics`` are the last evaluation's; a bank's stand beside its other values. ``epsilon`` is the worst bank's, and it
and ``delta`` are null where nothing is promised. Bytes are of the whole run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedsim.core.events import BankRow, BankSummary, RoundRow, Started


def summary(
    started: Started, rows: Sequence[RoundRow], status: str, delta: float | None, seconds: float
) -> dict[str, object]:
    """The run so far, from its events. ``delta`` is the privacy block's; ``seconds`` is the wall-clock time."""
    by_bank: dict[str, list[BankRow]] = {bank.name: [] for bank in started.banks}
    for row in rows:
        for bank_row in row.banks:
            by_bank[bank_row.bank].append(bank_row)
    epsilons = [_epsilon(bank, by_bank[bank.name]) for bank in started.banks]
    promised = [epsilon for epsilon in epsilons if epsilon is not None]
    return {
        "run_dir": started.run_dir,
        "status": status,
        "rounds": rows[-1].round if rows else 0,
        "metrics": _last_metrics(rows),
        "banks": {bank.name: _bank(bank, by_bank[bank.name], delta) for bank in started.banks},
        "epsilon": max(promised) if promised and len(promised) == len(epsilons) else None,
        "bytes_up": sum(row.bytes_up for row in rows),
        "bytes_down": sum(row.bytes_down for row in rows),
        "seconds": seconds,
    }


def _bank(bank: BankSummary, rows: Sequence[BankRow], delta: float | None) -> dict[str, object]:
    epsilon = _epsilon(bank, rows)
    return {
        **_last_metrics(rows),
        "num_train": bank.num_train,
        "epsilon": epsilon,
        "delta": None if epsilon is None else delta,
        "spend": {
            "sample_rate": bank.sample_rate,
            "noise_multiplier": bank.noise_multiplier,
            "num_steps": sum(row.num_steps for row in rows),
        },
        "bytes_up": sum(row.bytes_up for row in rows),
        "bytes_down": sum(row.bytes_down for row in rows),
    }


def _epsilon(bank: BankSummary, rows: Sequence[BankRow]) -> float | None:
    """None without noise: such a bank promises nothing, also before it has trained."""
    spent = rows[-1].epsilon if rows else 0.0
    return spent if bank.noise_multiplier > 0 and math.isfinite(spent) else None


def _last_metrics(rows: Sequence[RoundRow | BankRow]) -> dict[str, float]:
    return next((dict(row.metrics) for row in reversed(rows) if row.metrics), {})
