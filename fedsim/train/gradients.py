"""Gradients of a cohort: one forward and backward pass of the shared base for the rows of all its banks.

With a per-row mechanism every row has its own leaf, so autograd returns one gradient per row; the rows of a bank are
then weighted (clipped) and summed. Without one, rows of a bank share a leaf and autograd sums them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsim.core.errors import ModelError
from fedsim.core.rows import Rows
from fedsim.models.base import CohortModel
from fedsim.models.lora import Cohort
from fedsim.privacy.base import Mechanism
from fedsim.train.cohort import CohortState

STRETCH = 1024  # values of a row whose squares are summed in float32


@dataclass(slots=True)
class Tally:
    """What happened to one bank's rows, for the operator only: none of it leaves the bank in a deployment."""

    rows: int = 0
    loss: float = 0.0
    clipped: int = 0
    not_finite: int = 0

    def as_oracle(self) -> dict[str, float]:
        if not self.rows:
            return {}
        share = {"loss": self.loss / self.rows, "clipped": self.clipped / self.rows}
        return share | ({"not_finite": float(self.not_finite)} if self.not_finite else {})


def physical_batches(batches: Sequence[np.ndarray], max_rows: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The cohort's rows in bank order, cut into (row indices, bank of each row) of at most ``max_rows`` rows."""
    rows = np.concatenate(batches) if batches else np.zeros(0, dtype=np.int64)
    banks = np.repeat(np.arange(len(batches)), [len(batch) for batch in batches])
    return [(rows[i : i + max_rows], banks[i : i + max_rows]) for i in range(0, len(rows), max_rows)]


def row_norms(matrix: Tensor) -> Tensor:
    """(rows,) float32 L2 norms of float32 rows of any length, right to 1e-7.

    One float32 sum over 1e5 squares is off by 1e-5 and more, and by as much a clipped row would exceed its bound. So
    stretches of 1024 values are summed in float32 and added up in float64: as fast, as they fit the nearest cache.
    """
    whole = matrix.shape[1] - matrix.shape[1] % STRETCH
    parts = matrix[:, :whole].unflatten(1, (-1, STRETCH)).norm(dim=2)
    rest = matrix[:, whole:].norm(dim=1)
    return (parts.double().square().sum(1) + rest.double().square()).sqrt().float()


class Gradients:
    """Sums of row gradients per bank for a cohort in training."""

    def __init__(self, model: CohortModel, rows: Rows, state: CohortState, mechanisms: Sequence[Mechanism]) -> None:
        self.model, self.rows, self.state, self.mechanisms = model, rows, state, mechanisms
        self.per_row = any(mechanism.per_row for mechanism in mechanisms)

    def sums(self, batches: Sequence[np.ndarray], max_rows: int, tallies: Sequence[Tally]) -> Tensor:
        """(banks, P) weighted sums over the given rows of each bank; zero for a bank without rows."""
        total = torch.zeros_like(self.state.params)
        for indices, banks in physical_batches(batches, max_rows):
            if self.per_row:
                self._add_per_row(total, indices, banks, tallies)
            else:
                self._add_per_bank(total, indices, banks, tallies)
        return total

    def _losses(self, leaves: Mapping[str, Tensor], indices: np.ndarray, banks: Tensor, index: Tensor | None) -> Tensor:
        """(rows,) with these trained leaves; constant tensors are taken per row or per bank alike."""
        constant = self.state.constant
        scaling = self.state.scaling
        if index is None:  # one leaf per row
            constant = {name: tensor.index_select(0, banks) for name, tensor in constant.items()}
            scaling = scaling.index_select(0, banks)
        with self.model.using(Cohort({**constant, **leaves}, scaling, index)):
            return self.model.row_losses(self.model.batch(self.rows, indices))

    def _add_per_bank(self, total: Tensor, indices: np.ndarray, banks: np.ndarray, tallies: Sequence[Tally]) -> None:
        banks_t = torch.as_tensor(banks, device=total.device)
        leaf = self.state.params.detach().requires_grad_()
        losses = self._losses(self.state.layout.split(leaf), indices, banks_t, banks_t)
        (grads,) = self._backward(losses, [leaf])
        total += grads
        for bank in np.unique(banks):
            tally(tallies[bank], losses.detach()[banks_t == int(bank)], None)

    def _add_per_row(self, total: Tensor, indices: np.ndarray, banks: np.ndarray, tallies: Sequence[Tally]) -> None:
        banks_t = torch.as_tensor(banks, device=total.device)
        leaves = self.state.layout.split(self.state.params.index_select(0, banks_t))
        leaves = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}
        losses = self._losses(leaves, indices, banks_t, None)
        grads = self._backward(losses, list(leaves.values()))
        flat = torch.cat([grad.flatten(1) for grad in grads], 1)  # (rows, P)
        norms = row_norms(flat)
        flat[~torch.isfinite(norms)] = 0  # such a row contributes nothing: 0 * inf would poison the sum
        bounds = np.searchsorted(banks, np.arange(len(self.state) + 1))  # rows are in bank order
        for bank in np.unique(banks):
            rows = slice(int(bounds[bank]), int(bounds[bank + 1]))
            weights = self.mechanisms[bank].weights(norms[rows])
            total[bank] += weights @ flat[rows]
            tally(tallies[bank], losses.detach()[rows], weights)

    def _backward(self, losses: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
        grads = torch.autograd.grad(losses.sum(), leaves, allow_unused=True)
        if any(grad is None for grad in grads):
            missing = sum(grad is None for grad in grads)
            raise ModelError(
                f"{missing} of {len(leaves)} trainable tensors received no gradient; the base model blocks them "
                "(4-bit weights repacked for inference, or a module the forward pass does not use)"
            )
        return grads


def tally(entry: Tally, losses: Tensor, weights: Tensor | None) -> None:
    """Count rows, losses and clipped rows of one bank."""
    entry.rows += len(losses)
    finite = losses[torch.isfinite(losses)]
    entry.loss += float(finite.double().sum())
    if weights is not None:
        entry.clipped += int((weights < 1).sum())
        entry.not_finite += int((weights == 0).sum())
