"""What a run will move and hold, from its own first rounds played without data, weights or training.

The plan, driver, method, mechanism and codecs are the run's; only the banks' trainer is replaced by one that answers
with random values in the shapes that training would give. So bytes are lengths of encoded buffers here as well. They
are exactly those of the run where every trained tensor moves in every round, as one that has not changed is not sent
again, and where no codec chooses coordinates by their values (``sparse``, ``topk``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsim.build.prepare import Job
from fedsim.codecs import CODECS
from fedsim.core import seeds
from fedsim.core.adapter import AdapterState, Tensors
from fedsim.core.errors import FedsimError
from fedsim.core.events import RoundRow
from fedsim.core.messages import TrainJob
from fedsim.engine.actor import ClientActor
from fedsim.engine.driver import Driver
from fedsim.engine.plan import Evaluation
from fedsim.engine.pool import InlinePool
from fedsim.models.base import Outline
from fedsim.strategies.base import LocalContext
from fedsim.train.trainer import LocalTraining
from fedsim.train.values import EvalJob, Scores, Trained

ROUNDS = 2  # the first round sends more down than later ones
FLOAT = 4  # bytes
BY_VALUE = (CODECS["sparse"], CODECS["topk"])  # what they send, and what it takes to say where it lies, follows values
NOTHING = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Understudy:
    """Takes the trainer's place: an update has the right names and shapes, and its values mean nothing."""

    adapter: AdapterState
    local: LocalTraining

    def new_adapter(self, seed: int) -> AdapterState:
        return self.adapter

    def weights(self) -> list[np.ndarray]:
        return []

    def adopt(self, weights: Sequence[np.ndarray]) -> int:
        return 0

    def train(self, jobs: Sequence[TrainJob], kept: Sequence[Tensors]) -> list[Trained]:
        return [self._train(job, mine) for job, mine in zip(jobs, kept, strict=True)]

    def _train(self, job: TrainJob, kept: Tensors) -> Trained:
        rule, mechanism = self.local.rule, self.local.mechanisms[job.bank]
        draws = seeds.generator(job.seed, "rehearsal")
        start, num_steps = rule.start(job, kept), mechanism.plan.steps_per_round

        def moved(name: str, tensor: Tensor) -> Tensor:
            trains = rule.trains(name, job.round)
            return tensor + 0.01 * torch.randn(tensor.shape, generator=draws) if trains else tensor

        trained = start.with_tensors({name: moved(name, tensor) for name, tensor in start.tensors.items()})
        context = LocalContext(job, start.tensors, kept, self.local.train.lr, num_steps)
        outcome = rule.finish(trained, context)
        released = mechanism.release(outcome.delta, mechanism.source(job, "release"))
        size, spend = self.local.banks[job.bank].num_examples, mechanism.spend(num_steps)
        return Trained(job.bank, replace(outcome, delta=released), size, num_steps, spend)

    def evaluate(self, jobs: Sequence[EvalJob]) -> list[Scores]:
        raise FedsimError("there is nothing to evaluate in a rehearsal")


def rehearsed(job: Job, outline: Outline) -> Mapping[str, Any]:
    """Bytes of the first rounds and of the whole run; of memory the frozen weights and an actor's gradients."""
    rows, local = _played(job, outline), job.make_client.make_trainer.local
    first, later = rows[0], rows[-1]
    stages = [stage for codec in (job.plan.download, job.plan.upload) for stage in codec.sparsifiers]
    rounds = job.plan.num_rounds
    return {
        "rounds": [{"round": row.round, "bytes_up": row.bytes_up, "bytes_down": row.bytes_down} for row in rows],
        "bytes_up": first.bytes_up + (rounds - 1) * later.bytes_up,
        "bytes_down": first.bytes_down + (rounds - 1) * later.bytes_down,
        "exact": not any(isinstance(stage, BY_VALUE) for stage in stages),
        "model_bytes": outline.weight_bytes,
        "gradient_bytes": _gradient_bytes(job, outline, local),
    }


def _played(job: Job, outline: Outline) -> list[RoundRow]:
    plan = job.plan
    short = replace(
        plan,
        num_rounds=min(ROUNDS, plan.num_rounds),
        banks=tuple(replace(bank, test=NOTHING) for bank in plan.banks),
        evaluation=Evaluation(every=0, metrics=lambda scores: {}),
        dp_cap=None,
        exports=False,
        audited=False,
    )
    make = job.make_client
    trainer = Understudy(outline.adapter, make.make_trainer.local)
    client = ClientActor(lambda: trainer, make.rule, make.upload, make.secure, make.failures)
    rows = [event for event in Driver(short, InlinePool(client, job.actors)).run() if isinstance(event, RoundRow)]
    return [row for row in rows if row.round] or rows  # the first row is before training


def _gradient_bytes(job: Job, outline: Outline, local: LocalTraining) -> int:
    """Of a pass's largest part: one gradient for every row where rows are clipped, else one for every bank."""
    tensors = outline.adapter.tensors
    trained = sum(tensor.numel() for name, tensor in tensors.items() if job.plan.rule.trains(name, 0))
    per_row = any(mechanism.per_row for mechanism in job.plan.mechanisms.values())
    return FLOAT * trained * (local.train.max_rows if per_row else job.cohort)
