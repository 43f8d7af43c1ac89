"""One finished round as a row: what moved, what was spent, what was measured, by bank and in all."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from fedsim.core.events import BankRow, RoundRow
from fedsim.core.messages import Update
from fedsim.core.rows import BankRows
from fedsim.engine.evaluation import Evaluated
from fedsim.engine.gather import Gathered
from fedsim.engine.plan import Plan
from fedsim.privacy.ledger import Ledger


def draft_of(
    plan: Plan,
    ledger: Ledger,
    round_: int,
    gathered: Gathered,
    measured: Collection[str],
    releases: Mapping[str, int],
) -> RoundRow:
    """A round's row but for what is measured after it, and its seconds. The ledger has been charged before.

    ``measured``: the banks that are to be. ``releases``: by bank the ``num_releases`` of its last row; {} before the
    first round, whose row has every bank. A later one leaves out those of whom there is nothing new, or a round would
    cost by the banks that are registered.
    """
    updates = {exchange.update.bank: exchange.update for exchange in gathered.exchanges}
    rows = []
    for bank in plan.banks:
        trainer = plan.trainer_of(bank.name)
        charged = sum(spend.num_steps for spend in ledger.spent(trainer))
        asked = trainer in updates or bank.name in gathered.missing
        if not (asked or bank.name in measured) and releases.get(bank.name) == charged:
            continue
        row = _bank_row(bank, round_, updates.get(trainer), ledger.epsilon(trainer))
        if bank.name in gathered.missing:
            missing = gathered.missing[bank.name]
            row = replace(row, bytes_up=missing.bytes_up, bytes_down=missing.bytes_down)
        rows.append(replace(row, num_releases=charged))
    return RoundRow(
        round=round_,
        num_rounds=plan.num_rounds,
        metrics={},
        banks=tuple(rows),
        epsilon=ledger.worst(),
        bytes_up=sum(update.bytes_up for update in updates.values())
        + sum(one.bytes_up for one in gathered.missing.values()),
        bytes_down=sum(update.bytes_down for update in updates.values())
        + sum(one.bytes_down for one in gathered.missing.values()),
        seconds=0.0,
        failed={bank: one.failed.cause for bank, one in gathered.missing.items()},
        oracle=_mean_oracle(list(updates.values())),
    )


def widened(plan: Plan, row: RoundRow, others: RoundRow) -> RoundRow:
    """The row, with those of ``others`` whose banks it left out."""
    banks = {one.bank: one for one in (*others.banks, *row.banks)}
    return replace(row, banks=tuple(banks[bank.name] for bank in plan.banks if bank.name in banks))


def measured_row(draft: RoundRow, evaluated: Evaluated, releases: Mapping[str, int], seconds: float) -> RoundRow:
    """The row after ``seconds`` more. A bank of which nothing could be measured is no news by that."""
    banks = [replace(row, metrics=evaluated.banks.get(row.bank, {})) for row in draft.banks]
    news = [
        row
        for row in banks
        if row.participated or row.bank in draft.failed or row.metrics or releases.get(row.bank) != row.num_releases
    ]
    return replace(draft, metrics=evaluated.metrics, banks=tuple(news), seconds=draft.seconds + seconds)


def _bank_row(bank: BankRows, round_: int, update: Update | None, epsilon: float) -> BankRow:
    """``update`` is what trained on the bank's rows; only what carries the bank's name was sent by it."""
    sent = update if update and update.bank == bank.name else None
    return BankRow(
        round=round_,
        bank=bank.name,
        participated=update is not None,
        num_train=bank.num_examples,
        num_steps=update.num_steps if update else 0,
        epsilon=epsilon,
        bytes_up=sent.bytes_up if sent else 0,
        bytes_down=sent.bytes_down if sent else 0,
        oracle=update.oracle if update else {},
    )


def _mean_oracle(updates: Sequence[Update]) -> dict[str, float]:
    """Numbers that every participant reports, averaged by number of examples."""
    if not updates:
        return {}
    shared = sorted(set.intersection(*(set(update.oracle) for update in updates)))
    total = sum(update.num_examples for update in updates)
    return {name: math.fsum(update.num_examples * update.oracle[name] for update in updates) / total for name in shared}
