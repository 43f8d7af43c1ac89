"""Local training of a cohort: what must be equal, and what must not matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.core.adapter import AdapterState, leading, norm, subtract
from fedsim.core.errors import ModelError
from fedsim.core.messages import TrainJob
from fedsim.core.sections import Lora, Train
from fedsim.models.hf import HuggingFace
from fedsim.privacy import mechanism_for
from fedsim.privacy.base import BankPlan
from fedsim.strategies.base import LocalRule
from fedsim.train.trainer import LocalTraining, Trainer
from fedsim.train.values import EvalJob
from tests import tiny

DP = {"noise_multiplier": 0.7, "max_grad_norm": 0.5, "dp_delta": 1e-2}
OFF = {"noise_multiplier": 0.0, "max_grad_norm": 1e9, "dp_delta": 1e-2}
SGD = Train(local_steps=3, batch_size=4, lr=0.05, optimizer="sgd", momentum=0.9)  # Adam would blow rounding up
TARGETS = {"causal_lm": ["q_proj", "v_proj"], "sequence_classification": ["query", "value"]}


def make_trainer(
    folder: Path,
    task: str = "causal_lm",
    privacy: tuple[str, Mapping[str, float]] = ("none", {}),
    bits: int | None = None,
    rule: LocalRule | None = None,
    train: Train | None = None,
) -> Trainer:
    hf = HuggingFace(HuggingFace.Config(id=str(folder), task=task, quant_bits=bits, max_length=64))
    corpus = tiny.corpus()
    banks = tiny.three_banks(corpus)
    train = train or SGD
    kind, knobs = privacy
    plans = [BankPlan(b.name, b.num_examples, min(4, b.num_examples), train.local_steps or 3, 2) for b in banks]
    local = LocalTraining(
        rule=rule or LocalRule(),
        train=train,
        num_rounds=2,
        banks={bank.name: bank for bank in banks},
        mechanisms={plan.name: mechanism_for(kind, knobs, plan) for plan in plans},
    )
    model = hf.load(Lora(r=4, lora_alpha=8, target_modules=TARGETS[task]), 2)
    return Trainer(model, hf.encode(corpus), local)


def jobs_of(trainer: Trainer, adapter: AdapterState | None = None) -> list[TrainJob]:
    adapter = adapter or trainer.new_adapter(3)
    return [TrainJob(0, name, adapter, seed=100 + k) for k, name in enumerate(trainer.local.banks)]


def relative(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> float:
    return norm(subtract(left, right)) / norm(right)


@pytest.mark.parametrize("task", ["causal_lm", "sequence_classification"])
@pytest.mark.parametrize("privacy", [("none", {}), ("dp_sgd", DP)], ids=["plain", "dp"])
def test_a_cohort_equals_its_banks_one_by_one(tiny_folders, task, privacy) -> None:
    trainer = make_trainer(tiny_folders[task], task, privacy)
    jobs = jobs_of(trainer)
    together = trainer.train(jobs, [{}] * 3)
    alone = [trainer.train([job], [{}])[0] for job in jobs]
    for one, other in zip(together, alone, strict=True):
        assert one.bank == other.bank
        assert relative(one.outcome.delta, other.outcome.delta) < 1e-5


@pytest.mark.parametrize("privacy", [("none", {}), ("dp_sgd", DP)], ids=["plain", "dp"])
def test_unequal_ranks_in_one_cohort_equal_banks_one_by_one(tiny_folders, privacy) -> None:
    trainer = make_trainer(tiny_folders["causal_lm"], privacy=privacy)
    whole = trainer.new_adapter(3)
    mixed = [leading(whole, 4), leading(whole, 1, scaling=0.5), leading(whole, 2, scaling=3.0)]
    jobs = [replace(job, adapter=adapter) for job, adapter in zip(jobs_of(trainer), mixed, strict=True)]
    together = trainer.train(jobs, [{}] * 3)
    for job, one in zip(jobs, together, strict=True):
        other = trainer.train([job], [{}])[0]
        assert one.outcome.delta["model.layers.0.self_attn.q_proj.A"].shape[0] == job.adapter.rank
        assert relative(one.outcome.delta, other.outcome.delta) < 1e-5


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_no_noise_and_no_clip_equal_the_non_private_run(tiny_folders, bits) -> None:
    plain = make_trainer(tiny_folders["causal_lm"], bits=bits)
    private = make_trainer(tiny_folders["causal_lm"], privacy=("dp_sgd", OFF), bits=bits)
    jobs = jobs_of(plain)
    for one, other in zip(plain.train(jobs, [{}] * 3), private.train(jobs, [{}] * 3), strict=True):
        assert relative(one.outcome.delta, other.outcome.delta) < 1e-5


def test_small_physical_batches_change_nothing(tiny_folders) -> None:
    whole = make_trainer(tiny_folders["causal_lm"], privacy=("dp_sgd", DP))
    cut = make_trainer(tiny_folders["causal_lm"], privacy=("dp_sgd", DP), train=SGD.model_copy(update={"max_rows": 2}))
    jobs = jobs_of(whole)
    for one, other in zip(whole.train(jobs, [{}] * 3), cut.train(jobs, [{}] * 3), strict=True):
        assert relative(one.outcome.delta, other.outcome.delta) < 1e-5


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_evaluation_in_between_changes_no_bit(tiny_folders, bits) -> None:
    trainer = make_trainer(tiny_folders["causal_lm"], privacy=("dp_sgd", DP), bits=bits)
    jobs = jobs_of(trainer)
    first = trainer.train(jobs, [{}] * 3)
    trainer.evaluate([EvalJob(None, jobs[0].adapter, (), np.arange(10))])
    again = trainer.train(jobs, [{}] * 3)
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(one.outcome.delta[name], other.outcome.delta[name]) for name in one.outcome.delta)


def test_an_empty_batch_is_noised_and_charged(tiny_folders) -> None:
    trainer = make_trainer(tiny_folders["causal_lm"], privacy=("dp_sgd", DP))
    empty = {name: replace(bank, train=bank.train[:0]) for name, bank in trainer.local.banks.items()}
    trainer.local = replace(trainer.local, banks=empty)
    result = trainer.train(jobs_of(trainer)[:1], [{}])[0]
    assert norm(result.outcome.delta) > 0
    assert result.spend is not None
    assert result.spend.num_steps == 3


def test_the_denominator_is_the_expected_batch_size(tiny_folders) -> None:
    """Twice the expected size at the same sampling rate: the same rows are drawn and the step is half as long."""
    trainer = make_trainer(tiny_folders["causal_lm"], train=Train(local_steps=1, batch_size=4, lr=0.5, optimizer="sgd"))
    jobs = jobs_of(trainer)[:1]
    delta = trainer.train(jobs, [{}])[0].outcome.delta
    mechanism = trainer.local.mechanisms[jobs[0].bank]
    plan = mechanism.plan
    mechanism.plan = replace(plan, batch_size=plan.batch_size * 2, num_examples=plan.num_examples * 2)
    assert mechanism.plan.sample_rate == plan.sample_rate
    half = trainer.train(jobs, [{}])[0].outcome.delta
    assert relative({name: 2 * tensor for name, tensor in half.items()}, delta) < 1e-6


class OnlyB(LocalRule):
    def trains(self, name: str, round_: int) -> bool:
        return name.endswith(".B")


def test_tensors_a_method_does_not_train_stay_bitwise_constant_and_are_not_sent(tiny_folders) -> None:
    trainer = make_trainer(tiny_folders["causal_lm"], rule=OnlyB())
    result = trainer.train(jobs_of(trainer)[:2], [{}] * 2)
    assert all(name.endswith(".B") for name in result[0].outcome.delta)
    assert norm(result[0].outcome.delta) > 0


def test_a_learning_rate_that_moves_nothing_is_reported(tiny_folders) -> None:
    settings = Train(local_steps=2, batch_size=4, lr=1e-30, optimizer="sgd")
    trainer = make_trainer(tiny_folders["causal_lm"], train=settings)
    with pytest.raises(ModelError, match="did not move in 2 local steps"):
        trainer.train(jobs_of(trainer)[:1], [{}])


@pytest.mark.parametrize("task", ["causal_lm", "sequence_classification"])
def test_scores_are_in_the_order_of_rows_and_do_not_depend_on_the_batch(tiny_folders, task) -> None:
    trainer = make_trainer(tiny_folders[task], task)
    adapter = trainer.new_adapter(3)
    rows = np.array([7, 3, 11, 0, 5])
    together = trainer.evaluate([EvalJob(None, adapter, (), rows)])[0]
    assert together.log_probs.shape == (5, 2)
    for position, row in enumerate(rows):
        alone = trainer.evaluate([EvalJob(None, adapter, (), np.array([row]))])[0]
        np.testing.assert_allclose(together.log_probs[position], alone.log_probs[0], rtol=1e-5, atol=1e-6)
        assert together.nll[position] == pytest.approx(-together.log_probs[position, together.labels[position]])


def test_an_adapter_laid_frozen_under_a_fresh_one_gives_the_same_scores(tiny_folders) -> None:
    trainer = make_trainer(tiny_folders["causal_lm"])
    start = trainer.new_adapter(3)
    trained = start.with_tensors({n: t + 0.1 for n, t in start.tensors.items()})
    rows = np.arange(6)
    direct = trainer.evaluate([EvalJob(None, trained, (), rows)])[0]
    folded = trainer.evaluate([EvalJob(None, start, (trained,), rows)])[0]
    np.testing.assert_allclose(direct.log_probs, folded.log_probs, rtol=1e-4)
