"""What an update says about a row: the row's own gradient laid on the change that its bank sent.

A bank that trained on the row moved against the row's gradient; one that did not moved against it by chance alone. The
attacker knows the base model, the adapter that the bank received and what it sent back, which is what a server or a
listener sees in every round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fedsim.core.adapter import AdapterState, Tensors, flatten
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


def pull(grads: Tensor, sent: Tensor, ordinary: Tensor | None = None) -> np.ndarray:
    """(n,) how much each row had to do with a change ``sent`` (P,), from the rows' gradients (n, P).

    Minus the change is laid on all gradients at once by ridge regression, so that a row is not credited with a
    direction that it shares with others. Whatever lies along ``ordinary`` (m, P) is taken out of both first: it says
    how much a row is like all others, whether it trained or not.
    """
    grads, sent = clipped_to_median(grads.double()), sent.double()
    gram, right = grads @ grads.T, grads @ sent
    if ordinary is not None:
        along = ordinary.double()
        along = along / along.norm(dim=1, keepdim=True).clamp(min=1e-30)
        shared = grads @ along.T
        inverse = torch.linalg.pinv(along @ along.T, rtol=1e-9, hermitian=True)
        gram, right = gram - shared @ inverse @ shared.T, right - shared @ inverse @ (along @ sent)
    ridge = RIDGE * gram.diagonal().mean() + 1e-30
    shares: np.ndarray = torch.linalg.solve(gram + ridge * torch.eye(len(gram)).to(gram), -right).numpy()
    return shares


class Listener:
    """Scores rows of every bank by what is sent in one round after the other.

    ``ordinary`` are rows of each bank that trained for certain: a differential attacker knows all rows but the one in
    question. What these explain, and what the other banks sent on the average, is no evidence about a row. Without
    this the score follows what is in a row, the same in every run of a seed, and one unlucky toss looks like a leak.
    """

    def __init__(
        self,
        model: CohortModel,
        rows: Rows,
        indices: np.ndarray,
        banks: np.ndarray,
        ordinary: Mapping[str, np.ndarray],
    ) -> None:
        self.model, self.rows, self.indices, self.banks, self.ordinary = model, rows, indices, banks, ordinary
        self.scores = np.zeros(len(indices))
        self.rounds = 0  # heard

    def hear(self, exchanges: Sequence[Exchange]) -> None:
        """Add, for every bank of a round, the pull of its rows in standard deviations over them."""
        self.rounds += 1
        sent = {exchange.job.bank: _sent(exchange) for exchange in exchanges}
        for exchange in exchanges:
            bank, change = exchange.job.bank, flatten(sent[exchange.job.bank])
            mine = self.banks == bank
            if not len(change) or mine.sum() < 2:
                continue
            self.model.set_frozen(exchange.job.frozen)
            chosen = np.concatenate([self.indices[mine], self.ordinary[bank]])
            grads = row_gradients(self.model, self.rows, exchange.job.adapter, list(sent[bank]), chosen)
            others = [flatten(one) for name, one in sent.items() if name != bank and _alike(one, sent[bank])]
            mean = torch.stack(others).mean(0, keepdim=True) if others else grads[:0]
            number = int(mine.sum())
            shares = pull(grads[:number], change, torch.cat([grads[number:], mean]))
            self.scores[mine] += (shares - shares.mean()) / max(float(shares.std()), 1e-30)


def _sent(exchange: Exchange) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in exchange.update.delta.items() if name in exchange.job.adapter.tensors}


def _alike(one: Tensors, other: Tensors) -> bool:
    """Whether two updates are of the same names and shapes."""
    return one.keys() == other.keys() and all(tensor.shape == other[name].shape for name, tensor in one.items())
