"""One fixed set of bank updates, played through any method in float64, with its messages on the wire.

Six banks of unequal size hold one fixed change each of every tensor. It is played as a constant gradient, so a method's
bank half acts on it as it would in training (what is trained, masks, springs, its own start); without one, a bank ends
where its change leads. The server is measured against the mean of the banks' own products, weighted by their sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedsim.build.prepare import codec
from fedsim.codecs import Codec, Payload
from fedsim.core import seeds
from fedsim.core.adapter import AdapterState, Tensors, leading, product, subtract, weighted_mean
from fedsim.core.messages import BankInfo, Exchange, ServerState, TrainJob, Update
from fedsim.engine.transport import Downlink, pack
from fedsim.strategies import LocalContext, Outcome, Strategy
from fedsim.train.values import Trained

SEED = 7
SHAPES = {"attention.q": (96, 64), "attention.v": (48, 64), "mlp.up": (192, 64)}  # (d_out, d_in)
HEAD = {"head.score.weight": (2, 96), "head.score.bias": (2,)}
SIZES = (30, 50, 120, 400, 900, 1500)  # rows of the banks
RANK, ALPHA = 8, 16
RANKS = (2, 4, 8, 8, 4, 2)  # where a method allows unequal ones; the scaling is ALPHA / rank
STEPS, LR = 6, 0.1


def draw(*shape: int, name: str, scale: float) -> Tensor:
    return scale * torch.randn(*shape, generator=seeds.generator(SEED, name), dtype=torch.float64)


def initial() -> AdapterState:
    """A random, B zero, as training begins."""
    tensors = {name: draw(*shape, name=name, scale=0.1) for name, shape in HEAD.items()}
    for module, (d_out, d_in) in SHAPES.items():
        tensors[f"{module}.A"] = draw(RANK, d_in, name=module, scale=d_in**-0.5)
        tensors[f"{module}.B"] = torch.zeros(d_out, RANK, dtype=torch.float64)
    return AdapterState(tensors, RANK, ALPHA / RANK)


def change_of(bank: int) -> AdapterState:
    """The fixed change of every tensor at one bank, at the full rank."""
    tensors = {name: draw(*shape, name=f"{bank} {name}", scale=0.05) for name, shape in HEAD.items()}
    for module, (d_out, d_in) in SHAPES.items():
        shapes = {"A": (RANK, d_in), "B": (d_out, RANK), "R": (RANK, RANK)}
        tensors |= {f"{module}.{f}": draw(*s, name=f"{bank} {module}.{f}", scale=0.05) for f, s in shapes.items()}
    return AdapterState(tensors, RANK, ALPHA / RANK)


@dataclass(frozen=True)
class Setup:
    """A method and its banks. ``ranks``: one per bank."""

    strategy: Strategy
    ranks: Sequence[int] = (RANK,) * len(SIZES)

    def init(self) -> ServerState:
        infos = [BankInfo(f"bank{k}", SIZES[k], rank, ALPHA / rank) for k, rank in enumerate(self.ranks)]
        return self.strategy.init(initial(), infos, SEED)


@dataclass(frozen=True)
class BankRun:
    """One bank in one round: its job, the adapter that it ended with, and what it hands over."""

    job: TrainJob
    ended: AdapterState
    outcome: Outcome


def train(strategy: Strategy, job: TrainJob, bank: int, kept: Tensors) -> BankRun:
    """The bank's half, with its fixed change as a constant gradient of plain SGD."""
    rule = strategy.rule()
    start = rule.start(job, kept)
    change = leading(change_of(bank), start.rank).tensors
    names = [name for name in start.tensors if rule.trains(name, job.round)]
    params = {name: start.tensors[name].clone() for name in names}
    context = LocalContext(job, start.tensors, kept, LR, STEPS)
    for step in range(STEPS):
        grads = {name: -change[name] / (STEPS * LR) for name in names}
        rule.correct(params, grads, replace(context, step=step))
        for name in names:
            params[name] -= LR * rule.lr_scale(name) * grads[name]
    ended = start.with_tensors(params)
    return BankRun(job, ended, rule.finish(ended, context))


def products(adapter: AdapterState, frozen: Sequence[AdapterState]) -> dict[str, Tensor]:
    """The whole weight change of every module."""
    return {module: sum((product(f, module) for f in frozen), product(adapter, module)) for module in SHAPES}


def norm(tensors: Mapping[str, Tensor]) -> float:
    return float(torch.cat([tensor.flatten() for tensor in tensors.values()]).norm())


def relative_error(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    return norm(subtract(found, wanted)) / norm(wanted)


def mean_of_models(runs: Sequence[BankRun]) -> dict[str, Tensor]:
    """sum_k p_k (what bank k's layers had changed by when it ended), p_k by size."""
    return weighted_mean([products(run.ended, run.job.frozen) for run in runs], SIZES[: len(runs)])


@dataclass
class Bytes:
    """Mean per bank and round: on the wire, and of values alone."""

    encoded: float = 0.0
    values: float = 0.0

    def add(self, encoded: int, values: int, count: int) -> None:
        self.encoded += encoded / count
        self.values += values / count


class Metered(Codec):
    """A codec that adds up what its messages hold beside values."""

    def __init__(self, inner: Codec) -> None:
        super().__init__(inner.sparsifiers, inner.values)
        self.overhead = 0

    def compress(self, tensors: Tensors, kept: Tensors, generator: torch.Generator) -> tuple[Payload, Tensors]:
        payload, kept = super().compress(tensors, kept, generator)
        self.overhead += payload.num_bytes - payload.value_bytes
        return payload, kept


class Meter:
    """Bytes of a method's messages as float32 tensors on the wire, every bank on a link of its own."""

    def __init__(self, strategy: Strategy, num_banks: int) -> None:
        self.codec, self.num_banks = codec(strategy, ()), num_banks
        self.download = [Metered(self.codec) for _ in range(num_banks)]
        self.links = [Downlink(metered, SEED) for metered in self.download]

    def down(self, jobs: Sequence[TrainJob]) -> Bytes:
        found = Bytes()
        for job, link, metered in zip(jobs, self.links, self.download, strict=True):
            metered.overhead = 0
            (delivery,) = link.send([in_float32(job)])
            found.add(delivery.num_bytes, delivery.num_bytes - metered.overhead, self.num_banks)
        return found

    def up(self, runs: Sequence[BankRun]) -> Bytes:
        found = Bytes()
        for run in runs:
            outcome = Outcome(floats(run.outcome.delta), floats(run.outcome.slots), {})
            reply, _ = pack(Trained(run.job.bank, outcome, 1, STEPS, None), self.codec, {}, SEED)
            parts = (reply.delta, reply.slots)
            found.add(sum(p.num_bytes for p in parts), sum(p.value_bytes for p in parts), self.num_banks)
        return found


def floats(tensors: Tensors) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in tensors.items()}


def in_float32(job: TrainJob) -> TrainJob:
    adapter, *frozen = (replace(part, tensors=floats(part.tensors)) for part in (job.adapter, *job.frozen))
    return replace(job, adapter=adapter, frozen=tuple(frozen), slots=floats(job.slots))


@dataclass(frozen=True)
class Row:
    """Two rounds of one method."""

    errors: tuple[float, float]
    up: tuple[Bytes, Bytes]
    down: tuple[Bytes, Bytes]


def measure(setup: Setup) -> Row:
    state, strategy = setup.init(), setup.strategy
    meter, kept = Meter(strategy, len(setup.ranks)), [dict[str, Tensor]() for _ in setup.ranks]
    errors, up, down = [], [], []
    for _ in range(2):
        jobs = [strategy.configure(state, info.name, SEED) for info in state.banks]
        runs = [train(strategy, job, bank, kept[bank]) for bank, job in enumerate(jobs)]
        down.append(meter.down(jobs))
        up.append(meter.up(runs))
        kept = [dict(run.outcome.kept) for run in runs]
        state = strategy.aggregate(state, exchanges(runs))
        errors.append(relative_error(products(strategy.serve(state), state.frozen), mean_of_models(runs)))
    return Row((errors[0], errors[1]), (up[0], up[1]), (down[0], down[1]))


def exchanges(runs: Sequence[BankRun]) -> list[Exchange]:
    return [
        Exchange(run.job, Update(run.job.bank, run.outcome.delta, SIZES[bank], STEPS, run.outcome.slots))
        for bank, run in enumerate(runs)
    ]
