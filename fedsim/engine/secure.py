"""Secure aggregation on the wire of a run: what leaves an actor is masked, and the driver learns the sum alone.

    driver (``secure_uplink``)                    banks, in their actors
    begin   rosters, mail                  <->    keys, sealed shares
            jobs with an Order              ->    training; the update is quantised, weighted, masked, packed
    end     who is present                 <->    one share of every neighbour
            the sum, as one exchange

Every bank of a round sends the same coordinates: all of them, those that a method's server has chosen (a mask that
follows from what was sent down), or random ones drawn from a seed of the round. Weights are public, n_k over the
largest n of all banks, or equal where the method or the mechanism asks for it.

Simulated: the masks are real and no key of a bank ever reaches the driver, but all parties run in one program. The
secret behind the banks' keys is new in every run and known to the actors. Results do not depend on it, as masks cancel
exactly. ``dropout`` makes banks vanish once they have shared their keys: they do not train and send nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from fedsim.codecs import Payload, Sparsifier
from fedsim.codecs.wire import Reader, Writer
from fedsim.core import seeds
from fedsim.core.adapter import Tensors, flatten, unflatten
from fedsim.core.errors import FedsimError
from fedsim.core.messages import TrainJob
from fedsim.engine.transport import Reply
from fedsim.secagg import Grid, SecureSum
from fedsim.secagg.bank import Bank
from fedsim.secagg.primitives import derive
from fedsim.secagg.ring import to_ring
from fedsim.secagg.wire import Roster
from fedsim.strategies.base import LocalRule
from fedsim.train.values import Trained

Step = Literal["keys", "share", "reveal"]


@dataclass(frozen=True, slots=True)
class Ask:
    """A step of the protocol that a bank is to take, with the messages that it needs."""

    round: int
    bank: str
    step: Step
    messages: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """What comes with a job that is to be answered by a masked update."""

    roster: bytes
    mail: bytes
    weight: float  # in (0, 1]
    seed: int  # of the coordinates that all banks of the round send


@dataclass(frozen=True, slots=True)
class Terms:
    """What both sides know before the run."""

    protocol: SecureSum
    grid: Grid
    sparsifiers: tuple[Sparsifier, ...] = ()  # of the upload: random-k or nothing
    equal_weights: bool = False


# ------------------------------------------------------------------------------------------------- both sides


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Which values of an update travel: the same for all banks of a round."""

    support: Tensors | None  # masks by name, from the method; None: everywhere
    sparsifiers: tuple[Sparsifier, ...]
    seed: int

    def gather(self, update: Tensors) -> Tensor:
        """(k,) what is sent of an update."""
        values = self._chosen(update)
        for stage in self.sparsifiers:
            values = stage.select(values, Writer(), self._draws(), fed_back=False)
        return values

    def scatter(self, sent: Tensor, like: Tensors) -> dict[str, Tensor]:
        """The update, zero where nothing was sent."""
        positions = self._chosen({name: _positions(tensor, name, like) for name, tensor in like.items()})
        for stage in self.sparsifiers:
            writer = Writer()
            stage.select(torch.zeros(len(positions)), writer, self._draws(), fed_back=False)
            positions = positions[stage.support(len(positions), Reader(writer.body))]
        vector = torch.zeros(sum(tensor.numel() for tensor in like.values()))
        vector[positions] = sent
        return unflatten(vector, like)

    def _chosen(self, update: Tensors) -> Tensor:
        vector = flatten(update)
        if self.support is None:
            return vector
        return vector[flatten({name: self.support[name] for name in update}).bool()]

    def _draws(self) -> torch.Generator:
        return seeds.generator(self.seed, "common coordinates")


def _positions(tensor: Tensor, name: str, like: Tensors) -> Tensor:
    """The places of one tensor's values in the flat vector."""
    start = sum(like[other].numel() for other in like if other < name)
    return torch.arange(start, start + tensor.numel())


# ------------------------------------------------------------------------------------------------- banks


@dataclass(frozen=True)
class BankSide:
    """The banks' half, at home in the actors: any actor plays any bank, as everything follows from ``secret``."""

    terms: Terms
    secret: bytes = field(repr=False)

    def answer(self, ask: Ask) -> bytes:
        """A bank's next message."""
        bank = self._bank(ask.round, ask.bank)
        if ask.step == "keys":
            return bank.keys()
        return bank.share(*ask.messages) if ask.step == "share" else bank.reveal(*ask.messages)

    def masked(self, plain: Reply, trained: Trained, job: TrainJob, order: Order, rule: LocalRule) -> Reply:
        """The reply with its update masked. What it would have cost without masks is told as an oracle."""
        if plain.problem:
            return plain  # the bank keeps its update back
        if trained.outcome.slots:
            raise FedsimError(f"{sorted(trained.outcome.slots)} would leave bank {job.bank!r} without a mask")
        delta, grid, terms = trained.outcome.delta, self.terms.grid, self.terms
        values = Coordinates(rule.support(job), terms.sparsifiers, order.seed).gather(delta)
        codes = grid.encode(values, order.weight, seeds.generator(job.seed, "secure rounding"))
        ring_bits = Roster.from_bytes(order.roster).ring_bits
        body = self._bank(job.round, job.bank).mask(to_ring(codes, ring_bits), order.roster, order.mail)
        cut = float((values.abs() > grid.limit).sum()) / max(1, len(values))
        oracle = {**trained.oracle, "plain_bytes_up": float(plain.delta.num_bytes), "cut_off_share": cut}
        return replace(plain, delta=Payload(body, len(body)), oracle=oracle)

    def _bank(self, round_: int, bank: str) -> Bank:
        return Bank(derive(self.secret, f"round {round_} of {bank}"))
