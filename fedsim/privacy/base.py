"""The contract of a privacy mechanism. One object stands for one bank and knows that bank's noise and sampling rate.

The training loop asks it three things in every local step and one at the end of a round, so that nothing leaves a bank
except through its mechanism:

    weights(norms)   the factor of every row's gradient (clipping), from its joint norm over A, B and head
    noise(numel)     what is added to the weighted sum of row gradients; asked for on an empty batch too
    release(delta)   what is done to the update as a whole (bank-level mechanisms)
    spend(steps)     what the accountant is charged

Before the run it is asked whether its knobs can be honoured (``problems``). Neighbours are two data sets of one bank
that differ by one row added or removed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.adapter import Tensors
from fedsim.core.messages import Spend
from fedsim.core.registry import Config, NoKnobs

Accountant = Literal["pld", "rdp"]


class Terms(Config):
    """Knobs of every mechanism that makes a promise: epsilon is always reported at ``dp_delta``, for each bank."""

    dp_delta: float = Field(gt=0, lt=1)
    dp_epsilon: float | None = Field(None, gt=0)  # alone: the target; with the noise given: a cap that stops the run
    accountant: Accountant = "rdp"  # governs calibration, cap and the reported epsilon


@dataclass(frozen=True, slots=True)
class BankPlan:
    """A bank's sampling as planned before the run; all of it is public."""

    name: str
    num_examples: int  # n_k
    batch_size: float  # expected Poisson batch, q n_k
    steps_per_round: int
    num_rounds: int  # rounds in which the bank may take part at most

    @property
    def sample_rate(self) -> float:
        return min(1.0, self.batch_size / self.num_examples)

    @property
    def num_steps(self) -> int:
        return self.steps_per_round * self.num_rounds


class Mechanism(ABC):
    """How one bank protects its rows while it trains."""

    Config: ClassVar[type] = NoKnobs
    per_row: ClassVar[bool] = False  # True: the loop must form one gradient per row

    def __init__(self, config: Any, plan: BankPlan) -> None:
        self.config, self.plan = config, plan

    @classmethod
    def problems(cls, config: Any, plans: Sequence[BankPlan]) -> list[str]:
        """Why these knobs cannot be honoured at these banks, one message each; asked before any object is made."""
        return []

    @property
    def terms(self) -> Terms | None:
        """What is promised; None when nothing is."""
        return self.config if isinstance(self.config, Terms) else None

    @abstractmethod
    def weights(self, norms: Tensor) -> Tensor:
        """(rows,) factors in [0, 1] for row gradients of these L2 norms; a non-finite norm gives 0."""

    @abstractmethod
    def noise(self, numel: int, generator: torch.Generator) -> Tensor:
        """(numel,) float32 added to the sum of weighted row gradients in each step."""

    def release(self, delta: Tensors, generator: torch.Generator) -> dict[str, Tensor]:
        """The update as it may leave the bank."""
        return dict(delta)

    @abstractmethod
    def spend(self, num_steps: int) -> Spend | None:
        """The charge for ``num_steps`` executed steps; None when nothing is promised."""
