"""SGD and AdamW on a matrix of banks: row k is bank k's flat trainable vector.

The update rules are PyTorch's (``torch.optim.SGD``, ``torch.optim.AdamW``; a test compares them step by step). They are
written on the bank axis because banks of one cohort may finish at different steps. State starts at zero in every round:
moments of the last round's factors mean nothing after an SVD, a stack or a residual.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from fedsim.core.sections import Train


class Optimizer(ABC):
    """Holds per-bank state of shape (banks, size)."""

    def __init__(self, settings: Train, like: Tensor) -> None:
        self.settings = settings
        self.steps = 0
        self.allocate(like)

    @abstractmethod
    def allocate(self, like: Tensor) -> None: ...

    @abstractmethod
    def update(self, params: Tensor, grads: Tensor, active: slice | Tensor, lr: Tensor) -> None: ...

    def step(self, params: Tensor, grads: Tensor, active: slice | Tensor, lr: Tensor) -> None:
        """One step, in place, of the banks in ``active``, which have all made the same number of steps.

        ``lr`` is a scalar or has one rate per value, (size,).
        """
        self.steps += 1
        self.update(params, grads, active, lr)


class Sgd(Optimizer):
    """v <- momentum v + g;  p <- p - lr v, with coupled weight decay."""

    def allocate(self, like: Tensor) -> None:
        self.velocity = torch.zeros_like(like) if self.settings.momentum else None

    def update(self, params: Tensor, grads: Tensor, active: slice | Tensor, lr: Tensor) -> None:
        step = grads[active]
        if self.settings.weight_decay:
            step = step + self.settings.weight_decay * params[active]
        if self.velocity is not None:
            step = self.settings.momentum * self.velocity[active] + step
            self.velocity[active] = step
        params[active] -= lr * step


class AdamW(Optimizer):
    """Adam with decoupled weight decay (1711.05101), bias-corrected, eps 1e-8."""

    eps = 1e-8

    def allocate(self, like: Tensor) -> None:
        self.mean, self.square = torch.zeros_like(like), torch.zeros_like(like)

    def update(self, params: Tensor, grads: Tensor, active: slice | Tensor, lr: Tensor) -> None:
        beta1, beta2 = self.settings.betas
        grad = grads[active]
        mean = self.mean[active].lerp(grad, 1 - beta1)
        square = self.square[active] * beta2 + (1 - beta2) * grad * grad
        self.mean[active], self.square[active] = mean, square
        denominator = square.sqrt() / math.sqrt(1 - beta2**self.steps) + self.eps
        params[active] *= 1 - lr * self.settings.weight_decay
        params[active] -= lr / (1 - beta1**self.steps) * mean / denominator


def make_optimizer(settings: Train, like: Tensor) -> Optimizer:
    return (AdamW if settings.optimizer == "adamw" else Sgd)(settings, like)


def learning_rate(settings: Train, round_: int, num_rounds: int) -> float:
    """The rate of a round: constant, or a half cosine over the rounds from ``lr`` down to ``min_lr``."""
    if settings.lr_schedule == "constant" or num_rounds <= 1:
        return settings.lr
    share = min(1.0, round_ / (num_rounds - 1))
    return settings.min_lr + 0.5 * (settings.lr - settings.min_lr) * (1 + math.cos(math.pi * share))
