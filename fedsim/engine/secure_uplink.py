"""The server's side of secure aggregation in a run: see ``fedsim.engine.secure``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from fedsim.codecs import Codec, Payload
from fedsim.core import seeds
from fedsim.core.adapter import Tensors, flatten
from fedsim.core.errors import FedsimError, QuorumError
from fedsim.core.messages import Exchange, Update
from fedsim.core.sections import Failures
from fedsim.engine.failures import Cause, failed
from fedsim.engine.gather import Gathered, Missing
from fedsim.engine.secure import Ask, Coordinates, Order, Step, Terms
from fedsim.engine.transport import PLAIN, Delivery, Reply
from fedsim.engine.uplink import Received, Receiver, Uplink
from fedsim.secagg.server import Server
from fedsim.strategies.base import LocalRule


class Asked(Protocol):
    """What is needed of a pool."""

    def messages(self, asks: Sequence[Ask]) -> Iterator[tuple[int, bytes]]: ...


@dataclass
class _Round:
    """One round as the server sees it; banks by their number in the round."""

    round: int
    names: list[str]
    server: Server
    deliveries: dict[str, Delivery]
    weights: list[float]
    seed: int
    rosters: dict[int, bytes] = field(default_factory=dict)
    mail: dict[int, bytes] = field(default_factory=dict)
    masked: dict[int, bytes] = field(default_factory=dict)
    shapes: Mapping[str, torch.Size] = field(default_factory=dict)
    bytes_up: dict[str, int] = field(default_factory=dict)  # beside the masked vectors
    bytes_down: dict[str, int] = field(default_factory=dict)  # beside the jobs


def asked(pool: Asked, asks: Sequence[Ask]) -> list[bytes]:
    """The answers of a pool's banks, in the order of ``asks``."""
    answers = dict(pool.messages(asks))
    return [answers[index] for index in range(len(asks))]


class _Sealed(Codec):
    """What the server makes of a masked vector by itself: nothing."""

    def __init__(self) -> None:
        super().__init__((), PLAIN.values)

    def decompress(self, payload: Payload, like: Tensors) -> dict[str, Tensor]:
        return {}


class SecureUplink(Uplink):
    """The server's half. ``ask`` puts a step to banks, wherever they are played."""

    def __init__(
        self,
        terms: Terms,
        rule: LocalRule,
        sizes: Mapping[str, int],
        seed: int,
        ask: Callable[[Sequence[Ask]], list[bytes]],
        failures: Failures,
    ) -> None:
        super().__init__(Receiver(_Sealed(), rule, failures))
        self.terms, self.rule, self.sizes, self.seed, self._ask = terms, rule, sizes, seed, ask
        self._round: _Round | None = None

    def begin(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Keys and shares are exchanged; what is left are the jobs of the banks that have not dropped out since."""
        if not deliveries:
            return []
        played = self._round = self._start(deliveries)
        everybody = range(len(played.names))
        played.rosters = played.server.rosters(self._step("keys", dict.fromkeys(everybody, ())))
        shares = self._step("share", {bank: (body,) for bank, body in played.rosters.items()})
        played.mail = played.server.mail(shares)
        self._count(played.bytes_down, played.rosters)
        self._count(played.bytes_down, played.mail)
        return [self._ordered(played, bank) for bank in everybody if not self._drops_out(deliveries[bank])]

    def receive(self, reply: Reply | Received, delivery: Delivery) -> Received:
        """What the server sees of one bank: everything but the values of its update."""
        played = self._played()
        received = super().receive(reply, delivery)
        if isinstance(reply, Reply) and received.update is not None:
            played.masked[played.names.index(reply.bank)] = reply.delta.body
            played.shapes = reply.delta_shapes
        return received

    def end(self, gathered: Gathered) -> tuple[list[Exchange], Gathered]:
        """([the mean of the banks as one exchange], the round with all bytes and those who have dropped out).

        QuorumError when too few banks are left to open their sum.
        """
        played, exchanges = self._played(), gathered.exchanges
        arrived = [played.names.index(exchange.update.bank) for exchange in exchanges]
        played.masked = {bank: played.masked[bank] for bank in arrived}
        try:
            present = played.server.present(frozenset(arrived))
        except QuorumError as error:
            raise QuorumError(f"round {played.round + 1}: {error}") from error
        self._count(played.bytes_down, present)
        messages = {bank: (played.rosters[bank], played.mail[bank], present[bank]) for bank in arrived}
        mean = self._mean(played, self._step("reveal", messages))
        first, total = exchanges[0], sum(exchange.update.num_examples for exchange in exchanges)
        opened = replace(first, update=Update(first.update.bank, mean, total, first.update.num_steps))
        return [opened], self._told(played, gathered)

    # ---------------------------------------------------------------------------------------------- steps

    def _start(self, deliveries: Sequence[Delivery]) -> _Round:
        names = [delivery.to.bank for delivery in deliveries]
        round_ = deliveries[0].to.round
        rng = seeds.rng(self.seed, "secure neighbours", round_)
        server = self.terms.protocol.server(len(names), self.terms.grid.ring_bits(len(names)), rng)
        largest = max(self.sizes.values())
        weights = [1.0 if self.terms.equal_weights else self.sizes[name] / largest for name in names]
        by_name = dict(zip(names, deliveries, strict=True))
        return _Round(round_, names, server, by_name, weights, seeds.derive(self.seed, "secure coordinates", round_))

    def _ordered(self, played: _Round, bank: int) -> Delivery:
        delivery = played.deliveries[played.names[bank]]
        order = Order(played.rosters[bank], played.mail[bank], played.weights[bank], played.seed)
        return replace(delivery, to=replace(delivery.to, order=order))

    def _drops_out(self, delivery: Delivery) -> bool:
        to, chance = delivery.to, self.terms.protocol.config.dropout
        return bool(seeds.rng(self.seed, "dropout", to.round, to.bank).random() < chance)

    def _mean(self, played: _Round, revealed: Mapping[int, bytes]) -> dict[str, Tensor]:
        like = {name: torch.zeros(shape) for name, shape in played.shapes.items()}
        coordinates = Coordinates(self._support(played), self.terms.sparsifiers, played.seed)
        codes = played.server.open(played.masked, revealed, len(coordinates.gather(like)))
        weight = math.fsum(played.weights[bank] for bank in played.masked)
        return coordinates.scatter(self.terms.grid.decode(codes, weight), like)

    def _support(self, played: _Round) -> Tensors | None:
        """The method's mask. FedsimError when banks were not sent the same and so have not the same mask."""
        deliveries = [played.deliveries[played.names[bank]] for bank in played.masked]
        distinct = {id(delivery.parcel): delivery for delivery in deliveries}.values()
        first, *others = [self.rule.support(delivery.job()) for delivery in distinct]
        for other in others:
            if first is not None and other is not None and not torch.equal(flatten(first), flatten(other)):
                raise FedsimError(
                    "banks were sent different values, so the coordinates that they train have no sum; "
                    "use a download codec without random rounding"
                )
        return first

    def _told(self, played: _Round, gathered: Gathered) -> Gathered:
        """The round with the bytes of its protocol."""

        def both(update: Update) -> Update:
            up, down = played.bytes_up[update.bank], played.bytes_down[update.bank]
            return replace(update, bytes_up=update.bytes_up + up, bytes_down=update.bytes_down + down)

        exchanges = [replace(exchange, update=both(exchange.update)) for exchange in gathered.exchanges]
        gone = Cause("dropped_out", "it shared its keys and sent nothing more")
        missing = dict(gathered.missing)
        for name in played.names:
            up, down = played.bytes_up[name], played.bytes_down[name]
            if name in missing:
                one = missing[name]
                missing[name] = replace(one, bytes_up=one.bytes_up + up, bytes_down=one.bytes_down + down)
            elif name not in {exchange.update.bank for exchange in exchanges}:
                (failure,) = failed(gone, played.round, [name], 0, "skip")
                missing[name] = Missing(failure, played.deliveries[name].num_bytes + down, up)
        return replace(gathered, exchanges=exchanges, missing=missing)

    def _step(self, step: Step, messages: Mapping[int, tuple[bytes, ...]]) -> dict[int, bytes]:
        """Every bank's next message."""
        played = self._played()
        asks = [Ask(played.round, played.names[bank], step, body) for bank, body in messages.items()]
        answers = dict(zip(messages, self._ask(asks), strict=True))
        self._count(played.bytes_up, answers)
        return answers

    def _count(self, counts: dict[str, int], messages: Mapping[int, bytes]) -> None:
        for bank, body in messages.items():
            name = self._played().names[bank]
            counts[name] = counts.get(name, 0) + len(body)

    def _played(self) -> _Round:
        if self._round is None:
            raise FedsimError("secure aggregation: no round has begun")
        return self._round
