"""The contract of a privacy mechanism. One object stands for one bank and knows that bank's noise and sampling rate.

The training loop asks it three things in every local step and one at the end of a round, so that nothing leaves a bank
except through its mechanism:

    weights(norms)   the factor of every gradient that is clipped, from its joint norm over A, B and head
    noise(numel)     what is added to the weighted sum of gradients; asked for on an empty batch too
    release(delta)   what is done to the update as a whole (bank-level mechanisms)
    spend(steps)     what the accountant is charged for a round

What is clipped is the gradient of a row or of a customer (``per_row``), of the whole batch (``per_batch``), or the
update (``per_update``). Before the run it is asked whether its knobs can be honoured (``problems``) and what it
promises (``promise``). Where a server is trusted to add the noise, ``curator`` is the server's half.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedsim.core.adapter import Tensors
from fedsim.core.errors import SecurityError
from fedsim.core.messages import Exchange, Spend, TrainJob
from fedsim.core.registry import Config, NoKnobs
from fedsim.core.sections import Sampling
from fedsim.privacy.sources import Keyed, RunKey, Seeded, Source

Accountant = Literal["pld", "rdp"]


class Terms(Config):
    """Knobs of every mechanism that makes a promise: epsilon is always reported at ``dp_delta``, for each bank."""

    dp_delta: float = Field(gt=0, lt=1)
    dp_epsilon: float | None = Field(None, gt=0)  # alone: the target; with the noise given: a cap that stops the run
    accountant: Accountant = "rdp"  # governs calibration, cap and the reported epsilon
    noise: Literal["seeded", "secure"] = Field(
        "seeded", description="seeded: reproducible, whoever knows the seed can subtract it; secure: from a secret key"
    )
    noise_key: str | None = Field(
        None, min_length=1, description="file of 32 secret bytes, mode 0600; null: a new key for every run"
    )

    @model_validator(mode="after")
    def _key_of_secure_noise(self) -> Terms:
        if self.noise_key is not None and self.noise != "secure":
            raise ValueError("noise_key has an effect only with noise: secure")
        return self


@dataclass(frozen=True, slots=True)
class BankPlan:
    """A bank's sampling as planned before the run; all of it is public."""

    name: str
    num_examples: int  # n_k
    batch_size: float  # expected batch, q n_k; a whole number where sampling is fixed
    steps_per_round: int
    num_rounds: int  # rounds in which the bank may take part at most
    num_units: int | None = None  # customers at the bank; None when rows have no unit column
    num_banks: int = 1
    bank_rate: float = 1.0  # share of the banks that takes part in a round
    sampling: Sampling = "poisson"  # of rows in a step
    num_summed: int = 2  # banks whose sum is opened at the least, under secure aggregation

    @property
    def sample_rate(self) -> float:
        return min(1.0, self.batch_size / self.num_examples)

    @property
    def num_steps(self) -> int:
        return self.steps_per_round * self.num_rounds


class Curator(ABC):
    """A trusted server's half: it sees the banks' updates and gives nothing on but the noisy mean."""

    @abstractmethod
    def cohort(self, banks: Sequence[str], seed: int, round_: int) -> list[str]:
        """The banks of a round in bank order, sampled as the accountant is told; may be empty."""

    @abstractmethod
    def release(self, exchanges: Sequence[Exchange], blank: Exchange, slots: Tensors) -> tuple[Exchange, Tensors]:
        """(one exchange whose update is the noisy mean, what the curator keeps for the next round).

        ``blank`` is an exchange of this round with an update of zeros: its job and shapes are what is answered.
        """

    def paying(self, banks: Sequence[str], cohort: Sequence[str]) -> Sequence[str]:
        """Who is charged for a round: everybody, as not being drawn is part of what is accounted."""
        return banks

    @abstractmethod
    def spend(self) -> Spend:
        """The charge of one round to every bank that pays."""


class Mechanism(ABC):
    """How one bank protects its rows while it trains."""

    Config: ClassVar[type] = NoKnobs
    per_row: ClassVar[bool] = False  # the loop must form one gradient per row
    per_unit: ClassVar[bool] = False  # ... and the mean of each customer's; implies per_row
    per_batch: ClassVar[bool] = False  # the batch's mean gradient is clipped as a whole
    per_update: ClassVar[bool] = False  # the update is clipped as a whole; nothing else may leave the bank
    central: ClassVar[bool] = False  # a trusted server adds the noise: there is a curator
    needs_sum: ClassVar[bool] = False  # only the sum of several banks' updates is protected
    bounds_rows: ClassVar[bool] = True  # epsilon bounds what a row more or less at a bank can change
    promise: ClassVar[str] = ""  # who is protected from whom, one sentence for the user

    def __init__(self, config: Any, plan: BankPlan) -> None:
        self.config, self.plan = config, plan
        self.key: RunKey | None = None  # set by the run where noise is secure

    @classmethod
    def problems(cls, config: Any, plans: Sequence[BankPlan]) -> list[str]:
        """Why these knobs cannot be honoured at these banks, one message each; asked before any object is made."""
        return []

    @classmethod
    def curator(cls, mechanisms: Mapping[str, Mechanism]) -> Curator | None:
        """The trusted server's half, from the mechanisms of all banks; None when banks trust nobody."""
        return None

    @classmethod
    def rounds_of_a_bank(cls, num_rounds: int, num_banks: int, bank_rate: float) -> int:
        """In how many rounds a bank may be charged at most."""
        return num_rounds

    @property
    def terms(self) -> Terms | None:
        """What is promised; None when nothing is."""
        return self.config if isinstance(self.config, Terms) else None

    @property
    def clips_to(self) -> float | None:
        """The norm to which a protected unit's contribution is clipped; None where nothing is or the bound moves."""
        return None

    @property
    def rows_per_unit(self) -> int | None:
        """Rows that a drawn customer brings to a step at most; None where every row is a unit of its own."""
        return None

    @property
    def grid(self) -> tuple[float, int] | None:
        """(step, largest multiple to be expected) where ``release`` gives multiples of a step; banks weigh the same."""
        return None

    @property
    def divisor(self) -> float:
        """What the noisy sum of a step is divided by: the expected, never the realised, number of units."""
        return self.plan.batch_size

    def source(self, job: TrainJob, purpose: str, *step: int) -> Source:
        """Where the draws of a job or of one of its steps come from: the job's seed, or the run's secret key.

        SecurityError where noise is to be secure and there is no key: a seed never stands in for one.
        """
        if self.key is not None:
            return Keyed(self.key, purpose, job.round, job.bank, *step)
        if self.terms is not None and self.terms.noise == "secure":
            raise SecurityError(f"the mechanism of {self.plan.name!r} is to draw secure noise and was given no key")
        return Seeded(job.seed, purpose, *step)

    def weights(self, norms: Tensor) -> Tensor:
        """(n,) factors in [0, 1] for gradients of these L2 norms; a non-finite norm gives 0."""
        return torch.isfinite(norms).to(norms.dtype)

    def noise(self, numel: int, source: Source) -> Tensor:
        """(numel,) float32 added to the sum of weighted gradients in each step."""
        return torch.zeros(numel)

    def release(self, delta: Tensors, source: Source) -> dict[str, Tensor]:
        """The update as it may leave the bank."""
        return dict(delta)

    def whole_spend(self) -> Spend | None:
        """The charge of all rounds that the bank may take part in; None when nothing is promised."""
        spend = self.spend(self.plan.steps_per_round)
        return spend and replace(spend, num_steps=spend.num_steps * self.plan.num_rounds)

    @abstractmethod
    def spend(self, num_steps: int) -> Spend | None:
        """The charge for one round of ``num_steps`` executed steps; None when nothing is promised."""
