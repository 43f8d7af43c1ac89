"""Gradients of a cohort: one forward and backward pass of the shared base for the rows of all its banks.

With a per-row mechanism every row has its own leaf, so autograd returns one gradient per row; the rows of a customer
are averaged where customers are the unit, and the units of a bank are weighted (clipped) and summed. Without one, rows
of a bank share a leaf and autograd sums them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from fedsim.train.sampling import Drawn

STRETCH = 1024  # values of a row whose squares are summed in float32
WORTH_IT = 0.9  # of the padded tokens: banks with equally many rows in a part share a product, which is worth something
Lengths = Callable[[np.ndarray], np.ndarray]


@dataclass(slots=True)
class Tally:
    """What happened to one bank's rows, for the operator only: none of it leaves the bank in a deployment."""

    rows: int = 0
    loss: float = 0.0
    units: int = 0  # rows or customers that a mechanism has weighted
    clipped: int = 0
    not_finite: int = 0

    def as_oracle(self) -> dict[str, float]:
        if not self.rows:
            return {}
        share = {"loss": self.loss / self.rows, "clipped": self.clipped / max(1, self.units)}
        return share | ({"not_finite": float(self.not_finite)} if self.not_finite else {})


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one forward pass, in bank order, units whole."""

    rows: np.ndarray  # (n,) indices into the corpus
    banks: np.ndarray  # (n,) position in the cohort
    units: np.ndarray  # (n,) 0, 0, 1, 2, 2, ...


def physical_batches(batches: Sequence[Drawn], max_rows: int, lengths: Lengths) -> list[Part]:
    """The cohort's rows in parts of at most ``max_rows`` rows; a larger unit is a part of its own.

    Rows of similar length share a part where that saves padding and each is a unit of its own.
    """
    rows = np.concatenate([batch.rows for batch in batches])
    banks = np.repeat(np.arange(len(batches)), [len(batch) for batch in batches])
    units = np.concatenate([batch.units for batch in batches])
    begins = np.flatnonzero((np.diff(banks, prepend=-1) != 0) | (np.diff(units, prepend=-1) != 0))
    ends = np.append(begins[1:], len(rows))  # where a part may end
    number = np.searchsorted(begins, np.arange(len(rows)), side="right")
    places, start = [], 0
    while start < len(rows):
        fitting = ends[(ends > start) & (ends <= start + max_rows)]
        end = int(fitting[-1] if len(fitting) else ends[ends > start][0])
        places.append(np.arange(start, end))
        start = end
    if len(places) > 1 and len(begins) == len(rows):
        places = _by_length(places, lengths(rows), max_rows)
    return [Part(rows[part], banks[part], np.unique(number[part], return_inverse=True)[1]) for part in places]


def _by_length(places: list[np.ndarray], lengths: np.ndarray, max_rows: int) -> list[np.ndarray]:
    """Parts of rows of similar length, each in the order of banks; ``places`` as they are if little is saved by it."""
    ordered = np.argsort(lengths, kind="stable")
    parts = [np.sort(ordered[start : start + max_rows]) for start in range(0, len(ordered), max_rows)]
    before, after = (sum(len(part) * int(lengths[part].max()) for part in cut) for cut in (places, parts))
    return parts if after <= WORTH_IT * before else places


def row_norms(matrix: Tensor) -> Tensor:
    """(rows,) float32 L2 norms of float32 rows of any length, right to 1e-7.

    One float32 sum over 1e5 squares is off by 1e-5 and more, and by as much a clipped row would exceed its bound. So
    stretches of 1024 values are summed in float32 and added up in float64: as fast, as they fit the nearest cache.
    """
    whole = matrix.shape[1] - matrix.shape[1] % STRETCH
    stretches = matrix[:, :whole].view(len(matrix), whole // STRETCH, STRETCH)
    squares = torch.linalg.vector_norm(stretches, dim=2).double().square().sum(1)
    norms: Tensor = (squares + torch.linalg.vector_norm(matrix[:, whole:], dim=1).double().square()).sqrt().float()
    return norms


def unit_means(flat: Tensor, units: np.ndarray) -> Tensor:
    """(units, P) mean gradient of each unit from (rows, P); ``units`` (rows,) counts up from 0."""
    index = torch.as_tensor(units, device=flat.device)
    sizes = torch.bincount(index)
    return flat.new_zeros(len(sizes), flat.shape[1]).index_add_(0, index, flat) / sizes[:, None]


class Gradients:
    """Sums of row gradients per bank for a cohort in training."""

    def __init__(self, model: CohortModel, rows: Rows, state: CohortState, mechanisms: Sequence[Mechanism]) -> None:
        self.model, self.rows, self.state, self.mechanisms = model, rows, state, mechanisms
        self.per_row = any(mechanism.per_row for mechanism in mechanisms)
        self.per_unit = any(mechanism.per_unit for mechanism in mechanisms)

    def sums(self, batches: Sequence[Drawn], max_rows: int, tallies: Sequence[Tally]) -> Tensor:
        """(banks, P) weighted sums over the given rows of each bank; zero for a bank without rows."""
        total = torch.zeros_like(self.state.params)
        for part in physical_batches(batches, max_rows, self.rows.lengths):
            if self.per_row:
                self._add_per_row(total, part, tallies)
            else:
                self._add_per_bank(total, part, tallies)
        return total

    def _losses(self, leaves: Mapping[str, Tensor], indices: np.ndarray, banks: Tensor, index: Tensor | None) -> Tensor:
        """(rows,) with these trained leaves, of which ``banks`` tells the bank of each; ``index`` as of ``Cohort``."""
        constant = {name: tensor.index_select(0, banks) for name, tensor in self.state.constant.items()}
        scaling = self.state.scaling.index_select(0, banks)
        with self.model.using(Cohort({**constant, **leaves}, scaling, index)):
            return self.model.row_losses(self.model.batch(self.rows, indices))

    def _add_per_bank(self, total: Tensor, part: Part, tallies: Sequence[Tally]) -> None:
        present, position, counts = np.unique(part.banks, return_inverse=True, return_counts=True)
        banks_t = torch.as_tensor(present, device=total.device)
        index = None if (counts == counts[0]).all() else torch.as_tensor(position, device=total.device)
        leaf = self.state.params.index_select(0, banks_t).requires_grad_()
        losses = self._losses(self.state.layout.split(leaf), part.rows, banks_t, index)
        (grads,) = self._backward(losses, [leaf])
        total.index_add_(0, banks_t, grads)
        for bank, own in zip(present, torch.split(losses.detach(), counts.tolist()), strict=True):
            tally(tallies[bank], own, None)

    def _add_per_row(self, total: Tensor, part: Part, tallies: Sequence[Tally]) -> None:
        banks_t = torch.as_tensor(part.banks, device=total.device)
        leaves = self.state.layout.split(self.state.params.index_select(0, banks_t))
        leaves = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}
        losses = self._losses(leaves, part.rows, banks_t, None)
        grads = self._backward(losses, list(leaves.values()))
        flat = torch.cat([grad.flatten(1) for grad in grads], 1)  # (rows, P)
        banks = part.banks
        if self.per_unit:
            flat, banks = unit_means(flat, part.units), banks[np.flatnonzero(np.diff(part.units, prepend=-1))]
        norms = row_norms(flat)
        flat[~torch.isfinite(norms)] = 0  # such a unit contributes nothing: 0 * inf would poison the sum
        bounds = np.searchsorted(banks, np.arange(len(self.state) + 1))  # units are in bank order
        for bank in np.unique(banks):
            units = slice(int(bounds[bank]), int(bounds[bank + 1]))
            weights = self.mechanisms[bank].weights(norms[units])
            total[bank] += weights @ flat[units]
            tally(tallies[bank], losses.detach()[banks_t == int(bank)], weights)

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
    """Count rows, losses and clipped units of one bank."""
    entry.rows += len(losses)
    finite = losses[torch.isfinite(losses)]
    entry.loss += float(finite.double().sum())
    if weights is not None:
        entry.units += len(weights)
        entry.clipped += int((weights < 1).sum())
        entry.not_finite += int((weights == 0).sum())
