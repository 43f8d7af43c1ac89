"""Which words a row holds, from the gradient of one local step on that row alone (DAGER, 2405.15586, for LoRA's B).

A linear layer's gradient is made of what came into it. With h_t = A x_t of the t-th token, the gradient of B is
sum over t of (upstream gradient) h_t^T, so its rows lie in the span of the row's own h_t. In the first block x_t
depends on the token and its place alone: every word of a vocabulary is laid into the layer at every place and scored by
how much of its h lies in that span. Where a row has fewer words than A has ranks, they lie wholly inside and others do
not; of longer rows, and in later blocks, where x_t depends on the words around it, less is told.

That is the worst case: a batch of one row. What leaves a bank after several steps on many rows tells no more.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.attacks.gradients import row_gradients
from fedsim.attacks.membership import auc
from fedsim.core.adapter import AdapterState, Tensors, unflatten
from fedsim.core.errors import ModelError
from fedsim.core.rows import TokenRows
from fedsim.models.base import CohortModel
from fedsim.models.lora import Cohort, CohortLinear

MOST_TOKENS = 1 << 16  # in one pass
ROUNDING = 1e-5  # of float32 gradients, relative

Release = Callable[[dict[str, Tensor]], Tensors]  # what leaves a bank of a gradient


class _CaughtError(Exception):
    """Ends a forward pass where the first adapted layer begins."""


@dataclass(frozen=True, slots=True)
class Inverted:
    """How well one row's words were told from those of the vocabulary."""

    auc: float  # of a word of the row against one that is not
    recovered: float  # share of the row's words among as many best guesses


def first_adapted(model: CohortModel) -> CohortLinear:
    """ModelError where nothing linear is adapted."""
    for module in model.network.modules():
        if isinstance(module, CohortLinear):
            return module
    raise ModelError("words are recovered from an adapted linear layer, and this model has none", "audit.inversions")


def layer_inputs(model: CohortModel, adapter: AdapterState, ids: Tensor) -> Tensor:
    """(n, t, d_in) what comes into the first adapted layer for texts (n, t)."""
    caught: list[Tensor] = []

    def catch(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        caught.append(given[0].float().cpu())
        raise _CaughtError

    leaves = {name: tensor[None].to(model.device) for name, tensor in adapter.tensors.items()}
    handle = first_adapted(model).register_forward_pre_hook(catch)
    try:
        with torch.no_grad(), model.using(Cohort(leaves, torch.tensor([adapter.scaling], device=model.device))):
            size = max(1, MOST_TOKENS // ids.shape[1])
            for start in range(0, len(ids), size):
                part = ids[start : start + size].to(model.device)
                with suppress(_CaughtError):
                    model.network(input_ids=part, attention_mask=torch.ones_like(part))
    finally:
        handle.remove()
    return torch.cat(caught)


def word_scores(gradient: Tensor, hidden: Tensor) -> np.ndarray:
    """(v,) the largest share, over places, of each word's ``hidden`` (v, t, r) in the span of B's gradient (d_out, r).

    The span is that of the singular values above rounding, at most t of them and fewer than r.
    """
    _, sizes, rows = torch.linalg.svd(gradient.double(), full_matrices=False)
    rank = min(int((sizes > ROUNDING * sizes[0]).sum()), hidden.shape[1], gradient.shape[1] - 1)
    basis = rows[: max(1, rank)]  # (rank, r)
    inside = (hidden.double() @ basis.T).norm(dim=2) / hidden.double().norm(dim=2).clamp(min=1e-30)
    scores: np.ndarray = inside.max(1).values.numpy()
    return scores


def inverted(model: CohortModel, rows: TokenRows, adapter: AdapterState, row: int, release: Release) -> Inverted:
    """Guess the words of one row's prompt from what leaves a bank that took one step on it."""
    name = first_adapted(model).name
    names = sorted(n for n in adapter.tensors)
    (flat,) = row_gradients(model, rows, adapter, names, np.array([row]))
    gradient = release(unflatten(flat, {n: adapter.tensors[n] for n in names}))[f"{name}.B"]
    vocabulary = np.unique(rows.ids)
    length = int(rows.answer_starts[row])
    own = np.unique(rows.ids[rows.offsets[row] : rows.offsets[row] + length])
    repeated = torch.from_numpy(vocabulary.astype(np.int64))[:, None].expand(-1, length)
    hidden = layer_inputs(model, adapter, repeated) @ adapter.tensors[f"{name}.A"].T
    scores, included = word_scores(gradient, hidden), np.isin(vocabulary, own)
    best = np.argsort(-scores, kind="stable")[: len(own)]
    return Inverted(auc(scores, included), float(included[best].mean()))
