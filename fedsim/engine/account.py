"""What the driver tells the privacy ledger: who pays what for a round, and what came out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedsim.core.errors import FedsimError
from fedsim.core.messages import Exchange, Spend
from fedsim.engine.gather import Gathered
from fedsim.engine.plan import Plan
from fedsim.engine.store import Store
from fedsim.engine.transport import Delivery, digest_of
from fedsim.privacy.ledger import Charge


def price(plan: Plan, bank: str) -> Spend | None:
    """A round's charge to a bank that pays. Under a curator not being drawn is part of what is accounted."""
    if plan.curator is not None:
        return plan.curator.spend()
    mechanism = plan.mechanisms[bank]
    return mechanism.spend(mechanism.plan.steps_per_round)


def charge(plan: Plan, store: Store, round_: int, paying: Sequence[str]) -> Charge:
    """Of a round (from 1) that goes on from the state that the store holds."""
    bounds = {bank: bound for bank in paying if (bound := plan.mechanisms[bank].clips_to) is not None}
    spends = {bank: price(plan, bank) for bank in paying}
    return Charge(round_, store.inputs(round_), spends, store.repeatable(), bounds)


def of_jobs(plan: Plan, planned: Charge, deliveries: Sequence[Delivery]) -> Charge:
    """The charge to those that are sent a job; under a curator to all that it makes pay."""
    if plan.curator is not None:
        return planned
    return replace(planned, spends={delivery.to.bank: planned.spends[delivery.to.bank] for delivery in deliveries})


def outputs(plan: Plan, given: Sequence[Exchange], gathered: Gathered) -> dict[str, str]:
    """By bank a hash of what left it; under secure aggregation of the sum that it went into.

    Masks are new in every life of a run and tell nothing.
    """
    if plan.secure_sum is None:
        return gathered.outputs
    return dict.fromkeys(gathered.outputs, digest_of(given[0].update.delta))


def require_charged(charged: Charge, gathered: Gathered) -> None:
    """FedsimError when a bank says that it did more than the ledger was told before."""
    for exchange in gathered.exchanges:
        bank, spent = exchange.update.bank, exchange.update.spend
        told = charged.spends[bank]
        covered = told is None or (
            spent is not None and spent.num_steps <= told.num_steps and replace(spent, num_steps=told.num_steps) == told
        )
        if not covered:
            raise FedsimError(f"bank {bank!r} was charged {told} and spent {spent}: its mechanism changed its mind")
