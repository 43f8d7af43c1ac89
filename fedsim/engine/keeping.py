"""What a bank keeps and what it last received, when a checkpoint brings it back: of this run, or edited by hand.

Nobody but its bank makes anything of the values. Names, shapes and types follow from what the bank is sent: the
method's own rule says what it keeps of a first job, and a residual of the upload codec is as large as its tensor.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fedsim.core.adapter import Tensors
from fedsim.core.errors import CheckpointError
from fedsim.core.messages import ServerState, TrainJob
from fedsim.engine.checkpoint import unpack_tensors
from fedsim.engine.plan import Plan
from fedsim.engine.transport import CODEC_KEPT, Link
from fedsim.strategies.base import LocalContext, LocalRule


def require_kept_fits(kept: Mapping[str, bytes], plan: Plan, first: ServerState) -> None:
    """CheckpointError with bank and tensor when something is not what that bank keeps in the run that began so."""
    for bank, data in sorted(kept.items()):
        job, found = _first_job(plan, first, bank), unpack_tensors(data)
        own, more = _kept_of_first(plan.rule, job), {}
        if plan.upload.needs_basis:
            more = {f"{CODEC_KEPT}{name}": tensor for name, tensor in job.adapter.tensors.items()}  # of what was sent
        for name in sorted(own.keys() - found.keys()):
            raise CheckpointError(f"what bank {bank!r} keeps lacks {name} of shape {tuple(own[name].shape)}")
        for name in sorted(found):
            _require_alike(bank, name, found, {**own, **more})


def require_links_fit(links: Mapping[str, Link], plan: Plan, first: ServerState) -> None:
    """CheckpointError when a bank cannot have received what it is said to have. Nothing where shapes may change."""
    if not plan.strategy.sheet.keeps_basis:
        return
    for bank, link in sorted(links.items()):
        for name, like in _first_job(plan, first, bank).adapter.tensors.items():
            for held in (tensors.get(f"adapter/{name}", like) for tensors in (link.received, link.residual)):
                if held.shape != like.shape:
                    claimed, sent = tuple(held.shape), tuple(like.shape)
                    raise CheckpointError(f"what bank {bank!r} received: {name} has shape {claimed}, expected {sent}")


def _first_job(plan: Plan, first: ServerState, bank: str) -> TrainJob:
    """A method that says who comes can be asked of these alone: they are all alike."""
    arrivals = plan.strategy.arrivals(first)
    sent = bank if arrivals is None or bank in arrivals else arrivals[0]
    return plan.strategy.configure(first, sent, plan.seed)


def _kept_of_first(rule: LocalRule, job: TrainJob) -> Tensors:
    """What the rule keeps of a bank's first job, in which nothing was learnt."""
    start = rule.start(job, {})
    return rule.finish(start, LocalContext(job, start.tensors, {}, lr=1.0, num_steps=1)).kept


def _require_alike(bank: str, name: str, found: Tensors, wanted: Tensors) -> None:
    tensor, holder = found[name], f"what bank {bank!r} keeps"
    if name not in wanted:
        raise CheckpointError(f"{holder} has a tensor {name!r} of shape {tuple(tensor.shape)}, expected none")
    like = wanted[name]
    if (tensor.shape, tensor.dtype) != (like.shape, like.dtype):
        claimed, expected = (f"shape {tuple(t.shape)} and type {t.dtype}" for t in (tensor, like))
        raise CheckpointError(f"{holder}: {name} has {claimed}, expected {expected}")
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"{holder}: {name} holds values that are not finite")
