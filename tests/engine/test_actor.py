"""What an actor adds to its trainer: errors that say where, and a personal bank's choice of its adapter."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.codecs import pipeline
from fedsim.core.adapter import AdapterState, Tensors
from fedsim.core.errors import FedsimError, Problem, ResourceError, ScenarioError
from fedsim.core.messages import TrainJob
from fedsim.core.rows import BankRows
from fedsim.core.sections import Failures
from fedsim.engine.actor import ClientActor, describe, reported
from fedsim.engine.pool import InlinePool
from fedsim.engine.resources import Actors
from fedsim.engine.transport import Downlink
from fedsim.strategies.base import LocalRule
from fedsim.train.reuse import TRIED_ROWS, tried_rows
from fedsim.train.values import EvalJob, Scores, Trained
from tests.engine import fakes


def jobs(number: int) -> list[TrainJob]:
    adapter = fakes.MakeToy()().new_adapter(1)
    return [TrainJob(round=2, bank=f"bank-{k}", adapter=adapter, seed=10 + k) for k in range(number)]


def test_jobs_are_described_by_round_bank_and_seed() -> None:
    assert describe(jobs(1)) == "round 3, bank 'bank-0' (seed 10)"
    assert describe(jobs(2)) == "round 3, banks 'bank-0' (seed 10), 'bank-1' (seed 11)"
    assert describe(jobs(7)).endswith("'bank-3' (seed 13) and 3 more")


@pytest.mark.parametrize(
    ("cause", "kind", "text"),
    [
        (fakes.Unpicklable(1, 2), FedsimError, "here: Unpicklable: 1 is not 2"),
        (SystemExit(3), FedsimError, "here: SystemExit: 3"),
        (ResourceError("too big"), ResourceError, "here: too big"),
        (torch.OutOfMemoryError("CUDA"), ResourceError, "here: out of GPU memory; lower train.max_rows"),
        (ScenarioError([Problem("f:1:1", "privacy", "wrong")]), ScenarioError, "f:1:1: privacy: wrong"),
    ],
)
def test_every_failure_leaves_as_a_fedsim_error_that_pickles(
    cause: BaseException, kind: type[FedsimError], text: str
) -> None:
    with pytest.raises(FedsimError) as caught, reported("here"):
        raise cause
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is kind
    assert str(copy).startswith(text)


def test_ctrl_c_is_not_an_error_of_the_job() -> None:
    with pytest.raises(KeyboardInterrupt), reported("here"):
        raise KeyboardInterrupt


class Recording(fakes.ToyTrainer):
    """Notes what it is asked."""

    def __init__(self) -> None:
        super().__init__(LocalRule(), None, private=True)
        self.cohorts: list[list[str]] = []
        self.scored: list[tuple[str | None, np.ndarray]] = []
        self.cut_on: list[list[int] | None] = []

    def train(self, jobs: Sequence[TrainJob], kept: Sequence[Tensors]) -> list[Trained]:
        self.cohorts.append([job.bank for job in jobs])
        return super().train(jobs, kept)

    def evaluate(self, jobs: Sequence[EvalJob]) -> list[Scores]:
        self.scored.extend((job.bank, job.rows) for job in jobs)
        self.cut_on.extend(None if job.cut_on is None else job.cut_on.tolist() for job in jobs)
        return super().evaluate(jobs)


class Fusing(LocalRule):
    """Doubles the received adapter if that lowers the bank's loss."""

    personal = True

    def fuse(self, job: TrainJob, kept: Tensors, loss: Callable[[AdapterState], float]) -> AdapterState:
        doubled = job.adapter.with_tensors({name: 2 * tensor for name, tensor in job.adapter.tensors.items()})
        return min(job.adapter, doubled, key=loss)


def test_a_personal_bank_chooses_its_adapter_on_few_rows_of_its_own() -> None:
    trainer, bank = Recording(), BankRows("east", np.arange(100, 300), np.arange(3))
    few = tried_rows(bank, seed=1)
    assert len(set(few)) == TRIED_ROWS
    assert set(few) <= set(bank.train)
    assert np.array_equal(tried_rows(replace(bank, train=few), seed=1), few), "all of a small bank's rows"
    client = ClientActor(lambda: trainer, Fusing(), pipeline(()))
    job = TrainJob(round=0, bank="east", adapter=trainer.new_adapter(1), seed=3)
    scores = client.evaluate_own(job, {}, few, np.arange(20))
    assert [bank for bank, _ in trainer.scored] == ["east"] * 3
    assert all(np.array_equal(few, rows) for _, rows in trainer.scored[:2]), "both candidates, on the same rows"
    assert np.array_equal(scores.rows, np.arange(20))
    assert trainer.cut_on == [None, None, few.tolist()], "and its threshold on them, too"


def test_the_model_is_loaded_once() -> None:
    loaded: list[int] = []

    def load() -> fakes.ToyTrainer:
        loaded.append(1)
        return Recording()

    client = ClientActor(load, LocalRule(), pipeline(()))
    assert not loaded
    client.load()
    client.new_adapter(1)
    client.load()
    assert len(loaded) == 1


@pytest.mark.parametrize(("banks_per_actor", "sizes"), [("auto", [1, 2]), (2, [1, 2]), (1, [1, 1, 1])])
def test_cohorts_are_contiguous_in_bank_order(banks_per_actor: int, sizes: list[int]) -> None:
    trainer = Recording()
    pool = InlinePool(ClientActor(lambda: trainer, LocalRule(), pipeline(())), Actors(banks_per_actor=banks_per_actor))
    state = trainer.new_adapter(1)
    deliveries = Downlink(pipeline(()), 1).send([TrainJob(0, bank, state) for bank in fakes.BANKS])
    answers = list(pool.train(deliveries, [None, None, None], Failures(), {}))
    assert [len(cohort) for cohort in trainer.cohorts] == sizes
    assert [bank for cohort in trainer.cohorts for bank in cohort] == list(fakes.BANKS)
    assert [(one.which, one.reply.bank) for one in answers] == list(enumerate(fakes.BANKS))
