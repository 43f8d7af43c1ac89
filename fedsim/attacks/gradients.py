"""What an update says about a row: the row's own gradient laid on the change that its bank sent.

A bank that trained on the row moved against the row's gradient; one that did not moved against it by chance alone. The
attacker knows the base model, the adapter that the bank received and what it sent back, which is what a server or a
listener sees in every round.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedsim.core.adapter import AdapterState, flatten
from fedsim.core.messages import Exchange
from fedsim.core.rows import Rows
from fedsim.models.base import CohortModel
from fedsim.models.lora import Cohort

RIDGE = 1.0  # of a row's mean squared gradient
MAX_ROWS = 64  # in one pass: every row has adapter gradients of its own


def row_gradients(
    model: CohortModel, rows: Rows, adapter: AdapterState, names: Sequence[str], indices: np.ndarray
) -> Tensor:
    """(n, P) gradient of each row's loss by the named tensors, names in sorted order; float32 on the CPU."""
    return torch.cat([_gradients(model, rows, adapter, sorted(names), part) for part in _parts(indices)])


def _parts(indices: np.ndarray) -> list[np.ndarray]:
    return np.split(indices, range(MAX_ROWS, len(indices), MAX_ROWS))


def _gradients(
    model: CohortModel, rows: Rows, adapter: AdapterState, names: Sequence[str], indices: np.ndarray
) -> Tensor:
    each = {
        name: tensor.to(model.device).expand(len(indices), *tensor.shape).clone()
        for name, tensor in adapter.tensors.items()
    }
    leaves = [each[name].requires_grad_() for name in names]
    scaling = torch.full((len(indices),), adapter.scaling, device=model.device)
    with model.using(Cohort(each, scaling)):
        losses = model.row_losses(model.batch(rows, indices))
    grads = torch.autograd.grad(losses.sum(), leaves)
    return torch.cat([grad.flatten(1) for grad in grads], 1).cpu()


@torch.no_grad()
def row_losses(model: CohortModel, rows: Rows, adapter: AdapterState, indices: np.ndarray) -> np.ndarray:
    """(n,) each row's loss, what it was trained on, in float64."""
    leaves = {name: tensor[None].to(model.device) for name, tensor in adapter.tensors.items()}
    cohort, losses = Cohort(leaves, torch.tensor([adapter.scaling], device=model.device)), []
    for part in _parts(indices):
        with model.using(cohort):
            losses.append(model.row_losses(model.batch(rows, part)).double().cpu())
    return torch.cat(losses).numpy()


def clipped_to_median(grads: Tensor) -> Tensor:
    """(n, P) the same gradients, none longer than their median: what clipping leaves of a row is not known better."""
    norms = grads.norm(dim=1, keepdim=True)
    cut: Tensor = grads * (norms.median() / norms.clamp(min=1e-30)).clamp(max=1)
    return cut


def pull(grads: Tensor, sent: Tensor) -> np.ndarray:
    """(n,) how much each row had to do with a change ``sent`` (P,), from the rows' gradients (n, P).

    Minus the change is laid on all gradients at once by ridge regression, so that a row is not credited with a
    direction that it shares with others.
    """
    grads, sent = clipped_to_median(grads.double()), sent.double()
    gram = grads @ grads.T
    ridge = RIDGE * gram.diagonal().mean() + 1e-30
    shares: np.ndarray = torch.linalg.solve(gram + ridge * torch.eye(len(gram)).to(gram), -(grads @ sent)).numpy()
    return shares


class Listener:
    """Scores rows of every bank by what is sent in one round after the other."""

    def __init__(self, model: CohortModel, rows: Rows, indices: np.ndarray, banks: np.ndarray) -> None:
        self.model, self.rows, self.indices, self.banks = model, rows, indices, banks
        self.scores = np.zeros(len(indices))
        self.rounds = 0  # heard

    def hear(self, exchanges: Sequence[Exchange]) -> None:
        """Add, for every bank of a round, the pull of its rows in standard deviations over them."""
        self.rounds += 1
        adapter: AdapterState | None = None
        for exchange in exchanges:
            job, delta = exchange.job, exchange.update.delta
            sent = {name: tensor for name, tensor in delta.items() if name in job.adapter.tensors}
            mine = self.banks == job.bank
            if not sent or mine.sum() < 2:
                continue
            if adapter is None or not _same(adapter, job.adapter):  # mostly all banks receive the same
                adapter = job.adapter
                self.model.set_frozen(job.frozen)
                grads = row_gradients(self.model, self.rows, adapter, list(sent), self.indices)
            shares = pull(grads, flatten(sent))[mine]
            self.scores[mine] += (shares - shares.mean()) / max(float(shares.std()), 1e-30)


def _same(one: AdapterState, other: AdapterState) -> bool:
    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items()
    )
