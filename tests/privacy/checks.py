"""What DP-SGD promises, measured on a trainer from outside: each function raises AssertionError when it does not hold.

A released sum is read off the adapter: after one step of SGD with lr 1 it is -delta times the expected batch size.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fedsim.core.adapter import flatten
from fedsim.core.messages import TrainJob
from fedsim.core.rows import BankRows, Corpus
from fedsim.core.sections import Lora, Train
from fedsim.models.hf import HuggingFace
from fedsim.privacy import mechanism_for
from fedsim.privacy.base import BankPlan
from fedsim.strategies.base import LocalRule
from fedsim.train.trainer import LocalTraining, Trainer
from tests import tiny

NUM_ROWS = 8
BOUND = 0.1


def corpus() -> Corpus:
    """Seven short answers to one question, and a long one."""
    prompts = ("the rate is 7 bank is",) * NUM_ROWS
    answers = ("good",) * (NUM_ROWS - 1) + (" ".join(tiny.WORDS * 2),)
    labels = np.full(NUM_ROWS, -1, dtype=np.int64)
    return Corpus(prompts, answers, labels, (), np.zeros(NUM_ROWS, dtype=bool))


def make_trainer(folder: Path, noise: float, bound: float = BOUND, rows: int = NUM_ROWS, rate: float = 1.0) -> Trainer:
    """One bank of ``rows`` rows whose public size is always 8: neighbours differ in their rows alone."""
    hf = HuggingFace(HuggingFace.Config(id=str(folder), max_length=64))
    bank = BankRows("bank", np.arange(NUM_ROWS)[NUM_ROWS - rows :], np.zeros(0, dtype=np.int64))
    plan = BankPlan("bank", NUM_ROWS, rate * NUM_ROWS, steps_per_round=1, num_rounds=1)
    knobs = {"noise_multiplier": noise, "max_grad_norm": bound, "dp_delta": 1e-2}
    local = LocalTraining(
        rule=LocalRule(),
        train=Train(local_steps=1, optimizer="sgd", lr=1.0),
        num_rounds=1,
        banks={"bank": bank},
        mechanisms={"bank": mechanism_for("dp_sgd", knobs, plan)},
    )
    model = hf.load(Lora(r=4, target_modules=["q_proj", "v_proj"]), 2)
    return Trainer(model, hf.encode(corpus()), local)


def released(trainer: Trainer, seed: int = 1) -> torch.Tensor:
    """(P,) float64: the noisy sum of the bank's only step, before it is divided by the expected batch size."""
    job = TrainJob(0, "bank", trainer.new_adapter(3), seed=seed)
    delta = trainer.train([job], [{}])[0].outcome.delta
    return -flatten(delta).double() * trainer.local.mechanisms["bank"].plan.batch_size


def with_rows(trainer: Trainer, rows: np.ndarray) -> Trainer:
    """The same trainer at a bank with other rows."""
    bank = replace(trainer.local.banks["bank"], train=rows)
    other = Trainer(trainer.model, trainer.rows, replace(trainer.local, banks={"bank": bank}))
    other.checked = trainer.checked
    return other


def one_row_moves_the_sum_by_at_most_the_bound(folder: Path) -> None:
    """Every row is left out in turn. The bound is below every row's norm, and then seven times below the sum's."""
    for bound in (BOUND, largest_norm(folder) / (NUM_ROWS - 1)):
        trainer = make_trainer(folder, noise=0.0, bound=bound)
        whole = released(trainer)
        for left_out in range(NUM_ROWS):
            rows = np.delete(np.arange(NUM_ROWS), left_out)
            assert float((whole - released(with_rows(trainer, rows))).norm()) <= bound * (1 + 1e-4)


def largest_norm(folder: Path) -> float:
    """Of a short answer's gradient, alone in its batch."""
    trainer = make_trainer(folder, noise=0.0, bound=1e9)
    return float(released(with_rows(trainer, np.array([0]))).norm())


def noise_has_the_charged_deviation(folder: Path) -> None:
    """The released sum without rows is the noise."""
    trainer = make_trainer(folder, noise=2.0)
    noise = torch.cat([released(with_rows(trainer, np.zeros(0, dtype=np.int64)), seed) for seed in range(8)])
    charged = trainer.local.mechanisms["bank"].spend(1)
    assert charged is not None
    assert abs(float(noise.std()) / (charged.noise_multiplier * BOUND) - 1) < 0.03


def an_empty_batch_is_noised(folder: Path) -> None:
    """At a sampling rate of 1/8 of one row, most batches are empty."""
    trainer = with_rows(make_trainer(folder, noise=2.0, rate=1 / NUM_ROWS), np.array([0]))
    for seed in range(4):
        assert float(released(trainer, seed).norm()) > 0


def the_denominator_is_the_expected_batch_size(folder: Path) -> None:
    """Half of the public number of rows are there: each counts as much as when all are."""
    trainer = make_trainer(folder, noise=0.0)
    one, four = (released(with_rows(trainer, np.arange(rows))) for rows in (1, 4))
    assert float((four - 4 * one).norm() / four.norm()) < 1e-3  # equal rows, so equal gradients


CHECKS = (
    an_empty_batch_is_noised,
    noise_has_the_charged_deviation,
    one_row_moves_the_sum_by_at_most_the_bound,
    the_denominator_is_the_expected_batch_size,
)
