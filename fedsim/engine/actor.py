"""One process that plays banks: trains them, encodes what they send, evaluates them. A plain class that knows no Ray.

The base model is loaded on first use and never again. What a bank keeps is an argument and a result, so any actor can
play any bank in any round. Every failure leaves as a FedsimError that pickles and names the banks, the round and the
seeds of their jobs; the original traceback travels as a note.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch

from fedsim.codecs import Codec
from fedsim.core.adapter import AdapterState, Tensors
from fedsim.core.errors import FedsimError, ResourceError, ScenarioError
from fedsim.core.events import Work
from fedsim.core.messages import TrainJob
from fedsim.core.sections import Failures
from fedsim.engine.secure import Ask, BankSide, Order
from fedsim.engine.sums import Nodes, Summand, Tree
from fedsim.engine.transport import Address, Parcel, Reply, pack, rule_kept
from fedsim.engine.uplink import Received, Receiver, summed
from fedsim.strategies.base import LocalRule
from fedsim.train.values import EvalJob, Scores, Trained


class Trainer(Protocol):
    """What an actor needs of ``fedsim.train.trainer.Trainer``."""

    def new_adapter(self, seed: int) -> AdapterState: ...
    def weights(self) -> list[np.ndarray]: ...
    def adopt(self, weights: Sequence[np.ndarray]) -> int: ...
    def train(self, jobs: Sequence[TrainJob], kept: Sequence[Tensors]) -> list[Trained]: ...
    def evaluate(self, jobs: Sequence[EvalJob]) -> list[Scores]: ...


class Answers(NamedTuple):
    """Of one call: by bank what it sends and what it keeps, and what was added up of their updates."""

    replies: list[Reply | Received]
    kept: list[Tensors]
    nodes: Nodes


class ClientActor:
    """Plays one or many banks per call; several banks of one call are trained together as a cohort."""

    def __init__(
        self,
        make_trainer: Callable[[], Trainer],
        rule: LocalRule,
        upload: Codec,
        secure: BankSide | None = None,
        failures: Failures | None = None,
    ) -> None:
        self._make_trainer, self._rule, self._upload, self._secure = make_trainer, rule, upload, secure
        self._receiver = Receiver(upload, rule, failures or Failures())  # for updates that are added up here

    @cached_property
    def trainer(self) -> Trainer:
        return self._make_trainer()

    def load(self) -> None:
        """Load the base model now."""
        with reported("loading the base model"):
            self.trainer  # noqa: B018  built on first use

    def weights(self) -> list[np.ndarray]:
        with reported("sharing the base model"):
            return self.trainer.weights()

    def adopt(self, weights: Sequence[np.ndarray]) -> int:
        with reported("sharing the base model"):
            return self.trainer.adopt(weights)

    def new_adapter(self, seed: int) -> AdapterState:
        with reported("drawing the initial adapter"):
            return self.trainer.new_adapter(seed)

    def train(
        self, jobs: Sequence[TrainJob], kept: Sequence[Tensors], orders: Sequence[Order | Summand | None] | None = None
    ) -> Answers:
        """What the banks send, in the order of jobs. With an order, an update is masked or goes into a sum."""
        with reported(describe(jobs)):
            start, clock = time.time(), time.perf_counter()
            trained, tree = self.trainer.train(jobs, [rule_kept(mine) for mine in kept]), Tree()
            packed = [
                self._packed(result, mine, job, order, tree)
                for result, mine, job, order in zip(trained, kept, jobs, orders or [None] * len(jobs), strict=True)
            ]
            work = Work(process_name(), start, time.perf_counter() - clock)
            return Answers([replace(reply, work=work) for reply, _ in packed], [mine for _, mine in packed], tree.nodes)

    def _packed(
        self, trained: Trained, kept: Tensors, job: TrainJob, order: Order | Summand | None, tree: Tree
    ) -> tuple[Reply | Received, Tensors]:
        reply, kept = pack(trained, self._upload, kept, job.seed)
        if order is None:
            return reply, kept
        if isinstance(order, Summand):
            return summed(self._receiver.receive(reply, job), order, tree), kept
        return self._bank_side.masked(reply, trained, job, order, self._rule), kept

    @property
    def _bank_side(self) -> BankSide:
        if self._secure is None:
            raise FedsimError("secure aggregation was asked of banks that have no secret for it")
        return self._secure

    def messages(self, asks: Sequence[Ask]) -> list[bytes]:
        """The banks' next messages of secure aggregation."""
        with reported("secure aggregation"):
            return [self._bank_side.answer(ask) for ask in asks]

    def evaluate(self, model: Parcel, rows: np.ndarray) -> Scores:
        """Scores of rows under the global adapter."""
        with reported("evaluating the global adapter"):
            return self.trainer.evaluate([EvalJob(None, model.adapter, model.frozen, rows)])[0]

    def evaluate_own(self, job: TrainJob, kept: Tensors, own: np.ndarray, rows: np.ndarray) -> Scores:
        """Scores of rows under one bank's own adapter, with the threshold that its own training rows ``own`` give."""
        adapter = self.own_adapter(job, kept, own)
        with reported(describe([job])):
            return self.trainer.evaluate([EvalJob(job.bank, adapter, job.frozen, rows, cut_on=own)])[0]

    def own_adapter(self, job: TrainJob, kept: Tensors, own: np.ndarray) -> AdapterState:
        """The adapter that a bank uses itself under a personal rule."""

        def loss(adapter: AdapterState) -> float:
            scores = self.trainer.evaluate([EvalJob(job.bank, adapter, job.frozen, own, written=False)])[0]
            return float(scores.nll.mean())

        with reported(describe([job])):
            return self._rule.fuse(job, rule_kept(kept), loss)


def process_name() -> str:
    """Eight digits that tell this process from others, of this machine and of others, without naming either."""
    return hashlib.sha256(f"{platform.node()} {os.getpid()}".encode()).hexdigest()[:8]


def describe(jobs: Sequence[TrainJob] | Sequence[Address]) -> str:
    """``round 3, bank 'nord' (seed 17)``; of a large cohort the first four banks."""
    shown = ", ".join(f"{job.bank!r} (seed {job.seed})" for job in jobs[:4])
    more = f" and {len(jobs) - 4} more" if len(jobs) > 4 else ""
    return f"round {jobs[0].round + 1}, {'bank' if len(jobs) == 1 else 'banks'} {shown}{more}"


@contextmanager
def reported(where: str) -> Iterator[None]:
    """Everything raised inside leaves as a FedsimError that says where. An actor must outlive a bug in a plug-in."""
    try:
        yield
    except ScenarioError:
        raise  # carries its own places
    except FedsimError as error:
        raise _noted(type(error)(f"{where}: {error}")) from error
    except torch.OutOfMemoryError as error:
        remedy = "lower train.max_rows or resources.banks_per_actor, or raise resources.gpus_per_client"
        raise _noted(ResourceError(f"{where}: out of GPU memory; {remedy}")) from error
    except (Exception, SystemExit) as error:
        raise _noted(FedsimError(f"{where}: {type(error).__name__}: {error}")) from error


def _noted(error: FedsimError) -> FedsimError:
    error.add_note(traceback.format_exc())
    return error
