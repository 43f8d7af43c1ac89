"""The server's receiving side for a whole run: per round one ``begin``, a ``receive`` per reply, one ``end``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fedsim.codecs import Codec
from fedsim.core.errors import FedsimError
from fedsim.core.events import Work
from fedsim.core.messages import Exchange, TrainJob, Update
from fedsim.core.sections import Failures
from fedsim.engine.failures import Cause
from fedsim.engine.sums import Nodes, Summand, Tree, mean, term
from fedsim.engine.transport import Delivery, Reply, unpack
from fedsim.engine.validation import Refused, bounded, require_tensors
from fedsim.strategies.base import LocalRule

if TYPE_CHECKING:
    from fedsim.engine.gather import Gathered


@dataclass(frozen=True, slots=True)
class Received:
    """What the server makes of one bank's reply: an update, or why it is not fit for use."""

    output: str  # SHA-256 of what left the bank
    update: Update | None = None
    refused: Cause | None = None
    cut: Cause | None = None  # why the update is not as it came
    work: Work | None = None


@dataclass(frozen=True, slots=True)
class Receiver:
    """How a reply is received, by the driver or for it in the actor that adds up updates."""

    codec: Codec
    rule: LocalRule
    failures: Failures

    def receive(self, reply: Reply, job: TrainJob) -> Received:
        """``job`` is what the bank was sent."""
        output = reply.digest()
        try:
            if not reply.problem:
                require_tensors(reply.delta_shapes, reply.slot_shapes, job, self.rule)
            update = unpack(reply, self.codec)
            delta, cut = bounded(update.delta, self.failures)
        except Refused as refused:
            return Received(output, refused=refused.cause, work=reply.work)
        return Received(output, replace(update, delta=delta), cut=cut, work=reply.work)


def summed(received: Received, order: Summand, tree: Tree) -> Received:
    """The same without its values, which go into the sum."""
    if received.update is None:
        return received
    tree.add((0, order.place), term(received.update, order.weight))
    return replace(received, update=replace(received.update, delta={}, slots={}))


class Uplink:
    """Updates come one by one, and the method is given each."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def begin(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """What is handed to the banks that train in this round."""
        return list(deliveries)

    def receive(self, reply: Reply | Received, delivery: Delivery) -> Received:
        """What the server sees of one bank's reply, unless that was seen to in the actor."""
        received = self._receiver.receive(reply, delivery.job()) if isinstance(reply, Reply) else reply
        if received.update is None:
            return received
        return replace(received, update=replace(received.update, bytes_down=delivery.num_bytes))

    def add(self, nodes: Nodes) -> None:
        """Take in what a call's updates add to the sum."""
        raise FedsimError("actors sent a sum where every update was to come by itself")

    def end(self, gathered: Gathered) -> tuple[list[Exchange], Gathered]:
        """(what the method is given, what is told of the round) of all that was received."""
        return gathered.exchanges, gathered


class SummingUplink(Uplink):
    """For methods that need the banks' mean alone: it comes as sums (``engine.sums``) and is given as one exchange.

    Only where all banks are sent the same: else what one was sent (its rank, its density, a download codec's residual)
    would stand for all. Such a round is an ``Uplink``'s.
    """

    def __init__(self, receiver: Receiver, weights: dict[str, float]) -> None:
        super().__init__(receiver)
        self._weights = weights
        self._tree: Tree | None = None

    def begin(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        self._tree = Tree() if len({id(delivery.parcel) for delivery in deliveries}) == 1 else None
        if self._tree is None:
            return super().begin(deliveries)
        orders = [Summand(place, self._weights[one.to.bank]) for place, one in enumerate(deliveries)]
        return [replace(one, to=replace(one.to, order=order)) for one, order in zip(deliveries, orders, strict=True)]

    def add(self, nodes: Nodes) -> None:
        tree = self._tree
        if tree is None:
            super().add(nodes)
        else:
            for node, tensors in nodes.items():
                tree.add(node, tensors)

    def end(self, gathered: Gathered) -> tuple[list[Exchange], Gathered]:
        if self._tree is None:
            return super().end(gathered)
        updates = [exchange.update for exchange in gathered.exchanges]
        delta, slots = mean(self._tree.total(), sum(self._weights[update.bank] for update in updates))
        whole = replace(updates[0], delta=delta, slots=slots, num_examples=sum(one.num_examples for one in updates))
        return [replace(gathered.exchanges[0], update=whole)], gathered
