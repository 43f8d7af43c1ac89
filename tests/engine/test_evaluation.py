"""Evaluation: which rows a threshold comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from fedsim.core.events import Finished
from fedsim.engine.plan import Evaluation
from fedsim.train.metrics import f1_cut, metrics
from fedsim.train.values import Scores
from tests.engine import fakes


def scores_of(cut_on: np.ndarray | None) -> list[Scores]:
    """What the metrics are computed from in a run of one round."""
    seen: list[Scores] = []

    def noting(scores: Scores) -> Mapping[str, float]:
        seen.append(scores)
        return metrics(scores, 2, ["f1"])

    plan = replace(fakes.plan(num_rounds=1), evaluation=Evaluation(every=1, metrics=noting, cut_on=cut_on))
    assert isinstance(list(fakes.inline(plan))[-1], Finished)
    return seen


def test_the_global_models_threshold_comes_from_training_rows_for_everyone_and_every_bank() -> None:
    training = np.arange(30, 41)  # none of the test rows 0 to 19
    before, *banks_before, after, _, _, _ = scores_of(training)
    toy = fakes.MakeToy()()
    alone = toy.evaluate([fakes.EvalJob(None, toy.new_adapter(fakes.plan().seed), (), training)])[0]
    assert len(banks_before) == 3
    assert set(before.rows) == set(range(fakes.NUM_ROWS)), "rows of the threshold are not scored as test rows"
    assert {scores.cut for scores in banks_before} == {before.cut}
    assert before.cut == pytest.approx(f1_cut(alone))
    assert after.cut != before.cut, "the model moved"


def test_without_such_rows_the_likelier_word_is_the_answer() -> None:
    assert {scores.cut for scores in scores_of(None)} == {0.0}
