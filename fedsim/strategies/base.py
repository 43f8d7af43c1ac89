"""The contract of a federated method: a server half (Strategy) and a bank half (LocalRule), both in one file.

A method sees values only: adapters, jobs, updates. It never sees Ray, a model, a data set or the bank axis of a
cohort: ``correct``, ``start`` and ``finish`` are called for one bank at a time with views of that bank's tensors,
so a method reads as its paper writes it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor

from fedsim.core import seeds
from fedsim.core.adapter import AdapterState, Tensors, add, factor, resize
from fedsim.core.messages import BankInfo, Exchange, ServerState, TrainJob
from fedsim.core.registry import NoKnobs


@dataclass(frozen=True, slots=True)
class LocalContext:
    """What a bank's half may look at while it trains one job."""

    job: TrainJob
    start: Tensors  # values before the first local step, after LocalRule.start
    kept: Tensors  # the bank's private state as it came in
    lr: float
    num_steps: int  # local steps of this job
    step: int = 0  # 0-based, set for correct()
    scratch: dict[str, Tensor] = field(default_factory=dict)  # the rule's notes from step to step of this job


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a bank's half hands over when its local steps are done."""

    delta: Tensors  # sent to the server: trained minus received, by name
    slots: Tensors  # sent to the server beside it (SCAFFOLD's control change)
    kept: Tensors  # stays at the bank


class LocalRule:
    """The bank's half. The defaults are plain local training of every tensor from the received adapter."""

    personal: ClassVar[bool] = False  # True: a bank is evaluated with fuse(received, kept), not with the global adapter

    def trains(self, name: str, round_: int) -> bool:
        """Whether a tensor is trained in this round (FFA-LoRA, RoLoRA)."""
        return True

    def start(self, job: TrainJob, kept: Tensors) -> AdapterState:
        """The adapter a bank starts from (FedSA-LoRA: its own B; FDLoRA: its own copy)."""
        return job.adapter

    def correct(self, params: dict[str, Tensor], grads: dict[str, Tensor], context: LocalContext) -> None:
        """Edit gradients in place after clip and noise, before the optimizer (FedProx, SCAFFOLD).

        Both mappings hold views of the trained tensors, outside autograd; editing ``params`` is allowed too (LoRA-A2
        restarts). Tensors of ``context`` are on the CPU: bring them over with ``tensor.to(grad)``.
        """

    def support(self, job: TrainJob) -> Tensors | None:
        """Where this rule's update can be other than zero, as masks by name; None: anywhere.

        A function of what was sent down alone, so that the server knows it too (FLASC with frozen coordinates).
        """
        return None

    def lr_scale(self, name: str) -> float:
        """Factor on the learning rate of one tensor (LoRA-A2: 5 for B)."""
        return 1.0

    def finish(self, trained: AdapterState, context: LocalContext) -> Outcome:
        """Turn the trained adapter into what is sent and what is kept. Default: send trained - received.

        Of whatever round and values, a bank keeps tensors of the same names, shapes and types: a resume asks for it.
        """
        names = [name for name in trained.tensors if self.trains(name, context.job.round)]
        delta = {name: trained.tensors[name] - context.job.adapter.tensors[name] for name in names}
        return Outcome(delta=delta, slots={}, kept=context.kept)

    def fuse(self, job: TrainJob, kept: Tensors, loss: Callable[[AdapterState], float]) -> AdapterState:
        """The adapter that a personal bank uses and exports; ``job`` carries the last global one (FDLoRA: AdaFusion).

        ``loss`` is the bank's mean loss on rows of its own. The result stays at the bank.
        """
        return self.start(job, kept)


class TrainOnly(LocalRule):
    """Plain local training of some kinds of tensors ("A", "B", "R", "head"); the others stay as received."""

    def __init__(self, *factors: str) -> None:
        self.factors = factors

    def trains(self, name: str, round_: int) -> bool:
        return factor(name) in self.factors


@dataclass(frozen=True, slots=True)
class Sheet:
    """One row of ``fedsim methods`` and what ``build`` checks combinations against."""

    title: str  # "FedIT (FedAvg of LoRA)"
    source: str  # "2305.05644, Algorithm 1"
    trains: str  # "A, B, head"
    up: str
    down: str
    exact: str  # does the update equal the mean of the banks' products?
    state: str  # what bank and server keep between rounds
    personal: bool = False  # every bank ends with a model of its own: ``LocalRule.personal``
    mixed_ranks: bool = False  # banks may have different ranks
    keeps_basis: bool = True  # coordinates mean the same from round to round (error feedback needs it)
    sums_only: bool = False  # the server needs the mean of updates alone (secure aggregation needs it)
    sends_slots: bool = False  # banks send more than the change of their adapter
    equal_weights: bool = False  # banks weigh the same in the server's mean, whatever their number of rows
    needs_factors: bool = False  # works on A and B as such: nothing to do where a model is trained whole
    asynchronous: bool = False  # the method says who sends in a round (``Strategy.arrivals``); nobody is sampled
    needs_sgd: bool = False  # valid for plain local SGD only: no momentum, no Adam, one rate within a round
    dp: str = "yes"  # "yes", or the reason why DP training is refused


class Strategy(ABC):
    """The server's half. Pure: every method takes values and returns new ones.

    A subclass carries a frozen ``Config`` with the paper's names for the method's knobs, and its ``sheet``.
    """

    Config: ClassVar[type] = NoKnobs
    sheet: ClassVar[Sheet]
    codecs: ClassVar[tuple[str, ...]] = ("float32",)  # the wire pipeline, both ways, unless the scenario sets one;
    # ("sparse",) where most of what is sent is zero: it then also goes before a scenario's value codec

    def __init_subclass__(cls, **arguments: Any) -> None:
        """One that aggregates in its own way and has no sheet of its own may need every update."""
        super().__init_subclass__(**arguments)
        if "aggregate" in vars(cls) and "sheet" not in vars(cls) and hasattr(cls, "sheet"):
            cls.sheet = replace(cls.sheet, sums_only=False)

    def __init__(self, config: Any) -> None:
        self.config = config

    def rule(self) -> LocalRule:
        """The bank's half with this run's knobs; it is pickled to the actors."""
        return LocalRule()

    def init(self, adapter: AdapterState, banks: Sequence[BankInfo], seed: int) -> ServerState:
        """The state before round 0. ``seed`` is the run's."""
        return ServerState(round=0, adapter=adapter, banks=tuple(banks))

    def arrivals(self, state: ServerState) -> list[str] | None:
        """The banks of the next round, in bank order; None: ``client_fraction`` of all is sampled."""
        return None

    def configure(self, state: ServerState, bank: str, seed: int) -> TrainJob:
        """What one sampled bank is sent. ``seed`` is the run's; draw with ``seeds.generator(job.seed, purpose)``."""
        return TrainJob(
            round=state.round,
            bank=bank,
            adapter=state.adapter,
            frozen=state.frozen,
            seed=seeds.derive(seed, "job", state.round, bank),
        )

    @abstractmethod
    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        """The next state from the round's exchanges, which come in bank order and are never empty.

        Where the sheet says ``sums_only`` it may be one that stands for all: ``delta`` and ``slots`` are the banks'
        means, weighted by examples (or alike: ``equal_weights``), ``num_examples`` their sum; all else is one bank's.
        """

    def serve(self, state: ServerState) -> AdapterState:
        """The adapter that is evaluated and exported as the global model (beside ``state.frozen``)."""
        return state.adapter


def weights_of(exchanges: Sequence[Exchange]) -> list[float]:
    """p_k: the share of each participant's examples (algorithms.md 0.1)."""
    total = sum(exchange.update.num_examples for exchange in exchanges)
    return [exchange.update.num_examples / total for exchange in exchanges]


def to_slots(prefix: str, tensors: Tensors) -> dict[str, Tensor]:
    """Tensors under ``"<prefix>/<name>"``, as slots and kept hold them."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def from_slots(prefix: str, slots: Tensors) -> dict[str, Tensor]:
    """The tensors that ``to_slots`` put there; empty when there are none."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in slots.items() if name.startswith(start)}


def returned(exchange: Exchange) -> AdapterState:
    """The adapter a bank ended with: what it received plus its delta."""
    received = exchange.job.adapter
    return received.with_tensors(add(received.tensors, exchange.update.delta))


def fit(job: TrainJob, bank: BankInfo) -> TrainJob:
    """The job with its adapter at the bank's own rank and scaling."""
    return replace(job, adapter=resize(job.adapter, bank.rank, bank.scaling))


def advance(state: ServerState, adapter: AdapterState, **changed: Any) -> ServerState:
    """The next round's state with a new adapter."""
    return replace(state, round=state.round + 1, adapter=adapter, **changed)
