"""F23: evaluation perturbs training. However often a run is evaluated, the adapter has the same bits.

The same with quantised base models is ``tests/train/test_trainer.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from fedsim.engine.pool import InlinePool
from fedsim.engine.resources import Actors
from fedsim.train.values import EvalJob, Scores
from tests.engine import fakes
from tests.faults.runs import Run, plan


def evaluated(every: int) -> Run:
    """A run that is evaluated after so many rounds each; 0: at the end only."""
    of = replace(plan(num_rounds=4), evaluation=replace(plan().evaluation, every=every))
    return Run.of(of, InlinePool(fakes.make_client(of)(), Actors()))


def test_the_bits_do_not_depend_on_how_often() -> None:
    often, once = evaluated(1), evaluated(0)
    assert [bool(row.metrics) for row in often.rows] == [True] * 5
    assert [bool(row.metrics) for row in once.rows[1:]] == [False, False, False, True]
    assert often.hash == once.hash != "none"
    assert often.ledger == once.ledger


def test_control_a_model_that_evaluation_changes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate, train = fakes.ToyTrainer.evaluate, fakes.ToyTrainer._train
    touched = []

    def touch(self: fakes.ToyTrainer, jobs: Sequence[EvalJob]) -> list[Scores]:
        touched.append(1)
        return evaluate(self, jobs)

    def repacked(self, job, kept):
        trained = train(self, job, kept)
        delta = {name: tensor * (1 + len(touched)) for name, tensor in trained.outcome.delta.items()}
        return replace(trained, outcome=replace(trained.outcome, delta=delta))

    monkeypatch.setattr(fakes.ToyTrainer, "evaluate", touch)
    monkeypatch.setattr(fakes.ToyTrainer, "_train", repacked)
    often = evaluated(1)
    touched.clear()
    assert often.hash != evaluated(0).hash
