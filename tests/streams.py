"""Synthetic event streams: what a driver yields, without a driver."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fedsim.core.events import BankDone, BankRow, BankSummary, BaselineDone, Event, Finished, RoundRow, Started
from fedsim.records.summary import Summary

AUCS = (0.5, 0.625, 0.75)  # of the global model in rounds 0, 1, 2
NAMES = ("bank-00", "bank-01")
TRAIN = (1000, 500)


def started(private: bool = True, names: Sequence[str] = NAMES) -> Started:
    noise = 1.0 if private else 0.0
    banks = tuple(
        BankSummary(name, TRAIN[i % 2], 50, noise, 0.02, 1e-5 if private else None) for i, name in enumerate(names)
    )
    notes = ("epsilon 8 buys 200 rounds at noise multiplier 1.0; 2 are planned.",) if private else ()
    return Started("quickstart", "results/runs/quickstart", 2, banks, notes)


def bank_row(round_: int, bank: str, private: bool = True) -> BankRow:
    """Round 0 is evaluated only; in training rounds 20 steps, 2,000 bytes up and 3,000 down."""
    trained = round_ > 0
    shift = -0.05 if bank == NAMES[1] else 0.05
    return BankRow(
        round=round_,
        bank=bank,
        participated=trained,
        num_train=TRAIN[NAMES.index(bank)] if bank in NAMES else 10,
        num_steps=20 * trained,
        epsilon=(0.5 * round_ if private else math.inf) if trained else 0.0,
        bytes_up=2000 * trained,
        bytes_down=3000 * trained,
        metrics={"auc": AUCS[round_] + shift, "accuracy": 0.8, "f1": math.nan},
        oracle={"loss": 0.7 - 0.1 * round_} if trained else {},
    )


def round_row(round_: int, private: bool = True, names: Sequence[str] = NAMES) -> RoundRow:
    banks = tuple(bank_row(round_, name, private) for name in names)
    return RoundRow(
        round=round_,
        num_rounds=2,
        metrics={"auc": AUCS[round_], "accuracy": 0.8, "f1": 0.25, "nll": 0.6},
        banks=banks,
        epsilon=max(bank.epsilon for bank in banks),
        bytes_up=sum(bank.bytes_up for bank in banks),
        bytes_down=sum(bank.bytes_down for bank in banks),
        seconds=2.0 + round_,
        oracle={"loss": 0.7 - 0.1 * round_} if round_ else {},
    )


def summary_of(begun: Started, rows: Sequence[RoundRow], status: str, seconds: float) -> dict[str, Any]:
    """The summary of these rounds; tight values are a little below what was charged."""
    summary = Summary(begun)
    for row in rows:
        summary.add(row)
    spent = rows[-1].banks if rows else ()
    return summary.result(status, seconds, {bank.bank: (0.8 * bank.epsilon, "pld") for bank in spent} or None)


def local_summary() -> dict[str, object]:
    """A baseline in which each bank has a model of its own."""
    banks = {
        "bank-00": {"auc": 0.66, "accuracy": 0.7, "f1": 0.2, "everyone_auc": 0.64, "everyone_accuracy": 0.71},
        "bank-01": {"auc": 0.58, "accuracy": 0.6, "f1": 0.1, "everyone_auc": 0.56, "everyone_accuracy": 0.69},
    }
    return {"metrics": {"auc": 0.5}, "banks": banks}


def stream(private: bool = True, baselines: bool = False, names: Sequence[str] = NAMES) -> list[Event]:
    """A whole run of two rounds."""
    begun = started(private, names)
    rows = [round_row(round_, private, names) for round_ in range(3)]
    whole = summary_of(begun, rows, "completed", 12.25)
    done: list[Event] = []
    if baselines:
        others = {"zero_shot": {"metrics": {"auc": 0.5}, "banks": {}}, "local": local_summary()}
        done = [BaselineDone(name, other) for name, other in others.items()]
        whole |= {"baselines": others, "best_auc": 0.85}
    events: list[Event] = [begun, rows[0]]
    for row in rows[1:]:
        events += [BankDone(row.round, name, i + 1, len(names)) for i, name in enumerate(names)]
        events.append(row)
    return [*events, *done, Finished("completed", whole)]
