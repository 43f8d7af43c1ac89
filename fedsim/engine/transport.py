"""The wire between server and banks: what one message holds, what it costs and what arrives.

Download. A bank is sent the tensors whose content differs from what it last received under that name: a factor that a
method leaves alone, or a frozen adapter from an earlier round, is paid for once. The adapter goes through the download
codec, frozen adapters and slots travel as float32. A bank trains from the DECODED values. Equal content is encoded and
decoded once for all banks that get it, which changes nothing: decoding is a function of the body. The residual of an
error-feedback download codec belongs to the link between the server and one bank, as banks may miss rounds.

Upload. ``Outcome.delta`` goes through the upload codec, ``Outcome.slots`` as float32. A residual of the upload codec is
private to the bank and lives in its ``kept`` under ``codec/<name>``. The server sees only decoded values.

Bytes are lengths of encoded bodies. Not counted: the base model, which every bank has, and the few scalars around a
message (round, seed, number of examples, spend).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedsim.codecs import Codec, Payload, pipeline
from fedsim.core import seeds
from fedsim.core.adapter import AdapterState, Tensors
from fedsim.core.events import Work
from fedsim.core.messages import Spend, TrainJob, Update
from fedsim.engine.validation import Refused, require_finite, require_numbers
from fedsim.train.values import Trained

if TYPE_CHECKING:
    from fedsim.engine.secure import Order
    from fedsim.engine.sums import Summand

PLAIN = pipeline(())
CODEC_KEPT = "codec/"


# -------------------------------------------------------------------------------------------------------- download


@dataclass(frozen=True, slots=True)
class Address:
    """Whose job it is, of which round, and its seed. With an order, the update leaves masked or in a sum."""

    round: int
    bank: str
    seed: int
    order: Order | Summand | None = None


@dataclass(frozen=True, slots=True)
class Parcel:
    """The content of a download as it arrives. Banks that are sent the same content share one object."""

    adapter: AdapterState
    frozen: tuple[AdapterState, ...] = ()
    slots: Tensors = field(default_factory=dict)

    def job(self, to: Address) -> TrainJob:
        """The job as the bank sees it."""
        return TrainJob(to.round, to.bank, self.adapter, self.frozen, self.slots, to.seed)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One bank's download: a parcel and what it cost."""

    to: Address
    parcel: Parcel
    num_bytes: int

    def job(self) -> TrainJob:
        """The job as the bank sees it."""
        return self.parcel.job(self.to)


@dataclass(frozen=True, slots=True)
class Link:
    """What the server remembers of one bank: what it received last, and the residual of a lossy download codec."""

    digests: Mapping[str, bytes] = field(default_factory=dict)
    received: Tensors = field(default_factory=dict)
    residual: Tensors = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Encoded:
    num_bytes: int
    received: Tensors
    residual: Tensors


class Downlink:
    """The server's sending side for a whole run. One ``send`` per round."""

    def __init__(self, codec: Codec, seed: int) -> None:
        self._codec, self._seed = codec, seed
        self.links: dict[str, Link] = {}  # by bank; with it another Downlink goes on where this one is
        self._digests: dict[int, tuple[Tensor, bytes]] = {}  # by identity: most tensors live for many rounds and banks

    def send(self, jobs: Sequence[TrainJob]) -> list[Delivery]:
        """Deliveries in the order of ``jobs``, which are of one round and of distinct banks."""
        known, self._digests = self._digests, {}
        encoded: dict[object, _Encoded] = {}
        parcels: dict[object, Parcel] = {}
        return [self._deliver(job, known, encoded, parcels) for job in jobs]

    def _deliver(
        self,
        job: TrainJob,
        known: Mapping[int, tuple[Tensor, bytes]],
        encoded: dict[object, _Encoded],
        parcels: dict[object, Parcel],
    ) -> Delivery:
        link = self.links.get(job.bank, Link())
        content = _named(job)
        digests = {name: self._digest(tensor, known) for name, tensor in content.items()}
        changed = {name: content[name] for name, digest in digests.items() if link.digests.get(name) != digest}
        key = (tuple((name, digests[name]) for name in changed), id(link.residual) if link.residual else None)
        if key not in encoded:
            encoded[key] = self._encode(changed, link.residual, job.round)
        sent = encoded[key]
        received = {name: sent.received[name] if name in changed else link.received[name] for name in content}
        self.links[job.bank] = Link(digests, received, sent.residual)
        shape = (job.adapter.rank, job.adapter.scaling, tuple((part.rank, part.scaling) for part in job.frozen))
        same = (shape, tuple((name, self._digest(tensor, known)) for name, tensor in received.items()))
        parcel = parcels.setdefault(same, _parcel(job, received))
        return Delivery(Address(job.round, job.bank, job.seed), parcel, sent.num_bytes)

    def _encode(self, changed: Tensors, residual: Tensors, round_: int) -> _Encoded:
        adapter = {name: tensor for name, tensor in changed.items() if name.startswith("adapter/")}
        others = {name: tensor for name, tensor in changed.items() if name not in adapter}
        draws = seeds.generator(self._seed, "download", round_)
        body, residual = _encode(self._codec, adapter, residual, draws)
        plain, _ = _encode(PLAIN, others, {}, draws)
        received = {**_decode(self._codec, body, adapter), **_decode(PLAIN, plain, others)}
        return _Encoded(body.num_bytes + plain.num_bytes, received, residual)

    def _digest(self, tensor: Tensor, known: Mapping[int, tuple[Tensor, bytes]]) -> bytes:
        found = self._digests.get(id(tensor)) or known.get(id(tensor))
        if found is None:
            shape = ",".join(map(str, tensor.shape)).encode()
            body = tensor.detach().contiguous().numpy().tobytes()
            found = (tensor, hashlib.blake2b(shape + b":" + body, digest_size=16).digest())
        self._digests[id(tensor)] = found
        return found[1]


def _named(job: TrainJob) -> dict[str, Tensor]:
    """Every tensor of a job under one flat name."""
    named = {f"adapter/{name}": tensor for name, tensor in job.adapter.tensors.items()}
    for index, frozen in enumerate(job.frozen):
        named |= {f"frozen/{index}/{name}": tensor for name, tensor in frozen.tensors.items()}
    return named | {f"slots/{name}": tensor for name, tensor in job.slots.items()}


def _parcel(job: TrainJob, received: Tensors) -> Parcel:
    """The inverse of ``_named``."""
    adapter = replace(job.adapter, tensors={name: received[f"adapter/{name}"] for name in job.adapter.tensors})
    frozen = tuple(
        replace(part, tensors={name: received[f"frozen/{index}/{name}"] for name in part.tensors})
        for index, part in enumerate(job.frozen)
    )
    return Parcel(adapter, frozen, {name: received[f"slots/{name}"] for name in job.slots})


# ---------------------------------------------------------------------------------------------------------- upload


@dataclass(frozen=True, slots=True)
class Reply:
    """One bank's answer as it travels. The shapes are known to both sides in a deployment, so they are not counted."""

    bank: str
    delta: Payload
    slots: Payload
    delta_shapes: Mapping[str, torch.Size]
    slot_shapes: Mapping[str, torch.Size]
    num_examples: int
    num_steps: int
    spend: Spend | None
    oracle: Mapping[str, float]
    problem: str = ""  # why the bank sends nothing: its update holds values that are not finite
    work: Work | None = None

    def digest(self) -> str:
        """SHA-256 of all that leaves the bank; ``oracle`` and ``work`` do not."""
        about = json.dumps([self.bank, self.num_examples, self.num_steps, len(self.delta.body)])
        return hashlib.sha256(about.encode() + self.delta.body + self.slots.body).hexdigest()


def digest_of(tensors: Tensors) -> str:
    """SHA-256 of names, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} ".encode())
        digest.update(tensors[name].detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def pack(trained: Trained, codec: Codec, kept: Tensors, seed: int) -> tuple[Reply, dict[str, Tensor]]:
    """The bank's side: (reply, the bank's kept for its next job). ``kept`` is what came with this job.

    An update that is not finite is kept back (a codec could make numbers of it), as is one whose bank would keep what
    is not finite: the bank says so, and keeps what it kept before.
    """
    outcome = trained.outcome
    try:
        require_finite({**outcome.delta, **outcome.slots})
        require_numbers(outcome.kept, "what it keeps")
    except Refused as error:
        return _nothing(trained, str(error)), dict(kept)
    residual = {name.removeprefix(CODEC_KEPT): kept[name] for name in kept if name.startswith(CODEC_KEPT)}
    delta, rest = _encode(codec, outcome.delta, residual, seeds.generator(seed, "upload"))
    slots, _ = _encode(PLAIN, outcome.slots, {}, seeds.generator(seed, "upload slots"))
    reply = Reply(
        bank=trained.bank,
        delta=delta,
        slots=slots,
        delta_shapes={name: tensor.shape for name, tensor in outcome.delta.items()},
        slot_shapes={name: tensor.shape for name, tensor in outcome.slots.items()},
        num_examples=trained.num_examples,
        num_steps=trained.num_steps,
        spend=trained.spend,
        oracle=dict(trained.oracle),
    )
    return reply, {**outcome.kept, **{f"{CODEC_KEPT}{name}": tensor for name, tensor in rest.items()}}


def _nothing(trained: Trained, problem: str) -> Reply:
    empty, steps = Payload(b"", 0), trained.num_steps
    return Reply(trained.bank, empty, empty, {}, {}, trained.num_examples, steps, trained.spend, {}, problem)


def rule_kept(kept: Tensors) -> dict[str, Tensor]:
    """The part of a bank's kept that belongs to the method's rule, without the codec's residual."""
    return {name: tensor for name, tensor in kept.items() if not name.startswith(CODEC_KEPT)}


def unpack(reply: Reply, codec: Codec) -> Update:
    """The server's side. Refused when the message cannot be decoded, or to values that must not reach a mean."""
    if reply.problem:
        raise Refused("not_finite", reply.problem)
    try:
        delta = _decode(codec, reply.delta, _like(reply.delta_shapes))
        slots = _decode(PLAIN, reply.slots, _like(reply.slot_shapes))
    except ValueError as error:
        raise Refused("mismatch", f"the message cannot be decoded: {error}") from error
    require_finite({**delta, **slots})
    return Update(
        bank=reply.bank,
        delta=delta,
        num_examples=reply.num_examples,
        num_steps=reply.num_steps,
        slots=slots,
        spend=reply.spend,
        bytes_up=reply.delta.num_bytes + reply.slots.num_bytes,
        oracle=reply.oracle,
    )


def _encode(codec: Codec, tensors: Tensors, kept: Tensors, draws: torch.Generator) -> tuple[Payload, Tensors]:
    """Nothing to send costs nothing, whatever the codec."""
    return codec.compress(tensors, kept, draws) if tensors else (Payload(b"", 0), kept)


def _like(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Tensors that cost nothing: a sender may claim any size, and decoding looks at shapes only."""
    try:
        return {name: torch.empty(tuple(shape), device="meta") for name, shape in shapes.items()}
    except (RuntimeError, TypeError) as error:  # negative, or beyond all integers
        raise ValueError(f"no tensor has the shape {' or '.join(map(str, shapes.values()))}") from error


def _decode(codec: Codec, payload: Payload, like: Tensors) -> Tensors:
    return codec.decompress(payload, like) if like else {}
