"""What crosses between the driver and a bank: frozen values of tensors and numbers, no code and no handles.

``kept`` is a bank's private state (a personal adapter, SCAFFOLD's control, an error-feedback residual). It goes into
a training call and comes out of it, so any actor can play any bank; the driver carries it without reading it.
``slots`` are a method's extra tensors that do travel (SCAFFOLD's control change) and are counted in the bytes.
Both are flat mappings, so that they can be written to one safetensors file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fedsim.core.adapter import AdapterState, Tensors
from fedsim.core.sections import Sampling

Noise = Literal["gaussian", "discrete"]


@dataclass(frozen=True, slots=True)
class BankInfo:
    """What the server knows of a bank. ``num_examples`` is public: it weights the mean."""

    name: str
    num_examples: int
    rank: int
    scaling: float


@dataclass(frozen=True, slots=True)
class ServerState:
    """All that a strategy carries from round to round.

    ``frozen`` adapters lie under the trained one and are never trained (FLoRA's stack, FedEx-LoRA's residual);
    the model's weight change is their sum plus the adapter's own product.
    """

    round: int
    adapter: AdapterState
    banks: tuple[BankInfo, ...]
    frozen: tuple[AdapterState, ...] = ()
    slots: Tensors = field(default_factory=dict)

    def bank(self, name: str) -> BankInfo:
        return next(bank for bank in self.banks if bank.name == name)


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One bank's work in one round, as the server sends it."""

    round: int
    bank: str
    adapter: AdapterState
    frozen: tuple[AdapterState, ...] = ()
    slots: Tensors = field(default_factory=dict)
    seed: int = 0  # seeds.derive(run seed, "job", round, bank)


@dataclass(frozen=True, slots=True)
class Spend:
    """Privacy paid by one bank in one round: ``num_steps`` Gaussian releases over units that were sampled.

    ``noise_multiplier`` is the noise's deviation over the distance that one protected unit can move a release. Discrete
    noise is known to be at most as revealing as Gaussian noise of the same multiplier in its Renyi divergence alone.
    """

    noise_multiplier: float
    sample_rate: float
    num_steps: int
    sampling: Sampling = "poisson"
    noise: Noise = "gaussian"


@dataclass(frozen=True, slots=True)
class Update:
    """What a bank returns. ``delta`` holds trained minus received values of the tensors it sends, decoded.

    ``oracle`` holds numbers that a deployment would not see (true loss, true norms, clipped share).
    """

    bank: str
    delta: Tensors
    num_examples: int
    num_steps: int
    slots: Tensors = field(default_factory=dict)
    spend: Spend | None = None
    bytes_down: int = 0
    bytes_up: int = 0
    oracle: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A job and its answer: what ``Strategy.aggregate`` is given, in bank order."""

    job: TrainJob
    update: Update
