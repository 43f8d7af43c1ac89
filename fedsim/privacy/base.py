"""The contract of a privacy mechanism. One object stands for one bank and knows that bank's noise and sampling rate.

The training loop asks it three things in every local step and one at the end of a round, so that nothing leaves a bank
except through its mechanism:

    weights(norms)   the factor of every row's gradient (clipping), from its joint norm over A, B and head
    noise(numel)     what is added to the weighted sum of row gradients; asked for on an empty batch too
    release(delta)   what is done to the update as a whole (bank-level mechanisms)
    spend(steps)     what the accountant is charged
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedsim.core.adapter import Tensors
from fedsim.core.messages import Spend
from fedsim.core.registry import NoKnobs


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


class Mechanism(ABC):
    Config: ClassVar[type] = NoKnobs
    per_row: ClassVar[bool] = False  # True: the loop must form one gradient per row

    def __init__(self, config: Any, plan: BankPlan) -> None:
        self.config, self.plan = config, plan

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
