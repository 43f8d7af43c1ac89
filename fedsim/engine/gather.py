"""The answers of one round: received as they come, put in bank order, and what is done about those that do not come."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fedsim.core.errors import QuorumError
from fedsim.core.events import BankDone, Event, Failed, RoundRow, Waiting
from fedsim.core.messages import Exchange
from fedsim.engine.failures import REFUSALS, Decided, decide, failed, too_few
from fedsim.engine.plan import Plan
from fedsim.engine.pool import Answer, Kept, Partial
from fedsim.engine.transport import Delivery
from fedsim.engine.uplink import Uplink


@dataclass(slots=True)
class Missing:
    """A bank of the round whose answer is not used: why, what it was sent and what it had sent before."""

    failed: Failed
    bytes_down: int = 0
    bytes_up: int = 0


@dataclass(slots=True)
class Gathered:
    """``exchanges`` are in bank order, ``missing`` by bank.

    ``outputs`` has a hash of all that left a bank, also where it is not fit for use.
    """

    exchanges: list[Exchange] = field(default_factory=list)
    missing: dict[str, Missing] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)


Told = Partial | Answer | RoundRow | Failed | Waiting
Train = Callable[[Sequence[Kept], Decided], Iterator[Told]]
"""Has the banks of a round trained that keep this; the row of the round before may be told among their answers."""


def gather(
    plan: Plan,
    train: Train,
    uplink: Uplink,
    deliveries: Sequence[Delivery],
    kept: dict[str, Kept],
    decided: Sequence[Failed],
) -> Generator[Event, None, Gathered]:
    """Have the banks train and collect what they send. What they keep goes into ``kept`` where their answer is used.

    ``decided`` are the failures of this round in an earlier life of the run: what followed of them follows again. The
    error of a failure that may not be passed over is raised after the event that tells of it.
    """
    exchanges: dict[int, Exchange] = {}
    gathered, sent = Gathered(), {delivery.to.bank: delivery.num_bytes for delivery in deliveries}
    lost = [one for one in decided if one.cause not in REFUSALS]  # a refused update comes, and is refused, again
    for one in lost:
        if one.action == "skip":
            gathered.missing[one.bank] = Missing(one, sent[one.bank])
    before = [kept.get(delivery.to.bank) for delivery in deliveries]
    actions = {one.bank: one.action for one in lost}
    for answer in train(before, actions):
        if isinstance(answer, Partial):
            uplink.add(answer.nodes)
            continue
        events: Iterable[Event]
        if isinstance(answer, Answer):
            events = _used(answer, plan, uplink, deliveries, exchanges, gathered.outputs, kept)
        else:
            events = [answer]
        for told in events:
            yield told
            if isinstance(told, Failed) and told.action == "skip":
                gathered.missing[told.bank] = Missing(told, sent[told.bank])
            elif isinstance(told, Failed) and told.action == "abort" and told.cause in REFUSALS:
                raise QuorumError(str(told))
    gathered.exchanges = [exchanges[index] for index in sorted(exchanges)]
    return gathered


def _used(
    answer: Answer,
    plan: Plan,
    uplink: Uplink,
    deliveries: Sequence[Delivery],
    exchanges: dict[int, Exchange],
    outputs: dict[str, str],
    kept: dict[str, Kept],
) -> Iterator[BankDone | Failed]:
    """Take an answer in; or, where it is not fit for use, the failure that it is. One that is clipped is both."""
    delivery = deliveries[answer.which]
    round_, bank = delivery.to.round, delivery.to.bank
    received = uplink.receive(answer.reply, delivery)
    outputs[bank] = received.output
    if received.refused is not None:
        action = decide(plan.failures, received.refused, 1, 1)
        yield from failed(received.refused, round_, [bank], 1, action)
    if received.cut is not None:
        yield from failed(received.cut, round_, [bank], 1, "clip")
    if received.update is not None:
        exchanges[answer.which] = Exchange(delivery.job(), received.update)
        kept[bank] = answer.kept
        yield BankDone(round_ + 1, bank, len(exchanges), len(deliveries), received.work, answer.more)


def require_quorum(plan: Plan, missing: Mapping[str, Missing], asked: int) -> None:
    """QuorumError, naming banks and causes, when too few are left to go on: before anything is aggregated."""
    error = too_few(plan.failures, {bank: one.failed for bank, one in missing.items()}, asked)
    if error is not None:
        raise error
