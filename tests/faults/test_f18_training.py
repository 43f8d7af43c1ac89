"""F18: a row whose gradient is not finite. F22: an update that does not move. F38: a batch without rows.

On the tiny real model; what is asserted is the sum that is released, or the update with its charge.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.core.adapter import norm
from fedsim.core.errors import ModelError
from fedsim.core.sections import Train
from fedsim.privacy.dp_sgd import DPSGD
from fedsim.train import trainer as trainer_module
from fedsim.train.cohort import CohortState
from fedsim.train.gradients import Gradients, Tally
from fedsim.train.sampling import Drawn
from fedsim.train.trainer import Trainer
from tests import tiny
from tests.train.test_trainer import DP, jobs_of, make_trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def private(folder: Path) -> Trainer:
    return make_trainer(folder, privacy=("dp_sgd", DP))


# --------------------------------------------------------------------------------------------------------------- F18


def released(trainer: Trainer, rows: list[int], poisoned: int | None) -> tuple[torch.Tensor, Tally]:
    """What one step of the first bank sums up before the noise; the loss of one row is made infinite."""
    adapter, model, tally = trainer.new_adapter(3), trainer.model, Tally()
    state = CohortState([adapter], list(adapter.tensors), model.device)
    bank = next(iter(trainer.local.mechanisms.values()))
    plain = type(model).row_losses

    def row_losses(batch):  # type: ignore[no-untyped-def]
        losses = plain(model, batch)
        factors = torch.tensor([torch.inf if row == poisoned else 1.0 for row in rows])
        return losses * factors

    model.row_losses = row_losses  # type: ignore[method-assign]
    total = Gradients(model, trainer.rows, state, [bank]).sums([Drawn.of_rows(np.array(rows))], 256, [tally])
    del model.row_losses
    return total[0], tally


def test_a_row_that_is_not_finite_contributes_nothing(private) -> None:
    with_it, tally = released(private, [0, 1, 2], poisoned=1)
    without, _ = released(private, [0, 2], poisoned=None)
    assert torch.isfinite(with_it).all()
    torch.testing.assert_close(with_it, without, rtol=1e-5, atol=1e-7)
    assert tally.not_finite == 1
    clean, _ = released(private, [0, 1, 2], poisoned=None)
    assert float((clean - with_it).norm()) <= DP["max_grad_norm"] * (1 + 1e-5), "as much as a row may matter"


def test_control_without_the_guard_one_row_poisons_the_sum(private, monkeypatch) -> None:
    monkeypatch.setattr(DPSGD, "weights", lambda self, norms: torch.ones_like(norms))
    monkeypatch.setattr("fedsim.train.gradients.row_norms", lambda matrix: torch.ones(len(matrix)))
    total, _ = released(private, [0, 1, 2], poisoned=1)
    assert not torch.isfinite(total).all()


# --------------------------------------------------------------------------------------------------------------- F22


def test_gradients_that_do_not_arrive_end_the_first_round(private, monkeypatch) -> None:
    """As with 4-bit weights that an evaluation has repacked for inference."""
    trainer = private
    monkeypatch.setattr(trainer.model, "row_losses", lambda batch: torch.zeros(4, requires_grad=True).exp())
    with pytest.raises(ModelError, match=r"8 of 8 trainable tensors received no gradient.*repacked for inference"):
        trainer.train(jobs_of(trainer)[:1], [{}])


def test_gradients_of_zero_end_the_first_round(folder, monkeypatch) -> None:
    settings = Train(local_steps=2, batch_size=4, optimizer="sgd")
    trainer = make_trainer(folder, train=settings)

    def zeros(self: Gradients, batches: object, max_rows: int, tallies: list[Tally]) -> torch.Tensor:
        tallies[0].rows += 4
        return torch.zeros_like(self.state.params)

    monkeypatch.setattr(Gradients, "sums", zeros)
    with pytest.raises(ModelError, match="8 of 8 trainable tensors did not move in 2 local steps of bank 'bank-00'"):
        trainer.train(jobs_of(trainer)[:1], [{}])

    monkeypatch.setattr(trainer_module, "check_moved", lambda *_: None)  # control
    assert norm(trainer.train(jobs_of(trainer)[:1], [{}])[0].outcome.delta) == 0


# --------------------------------------------------------------------------------------------------------------- F38


def without_rows(trainer: Trainer) -> Trainer:
    """Every bank draws nothing in every step."""
    empty = {name: replace(bank, train=bank.train[:0]) for name, bank in trainer.local.banks.items()}
    trainer.local = replace(trainer.local, banks=empty)
    return trainer


def test_a_batch_without_rows_is_noise_that_is_charged(private, folder) -> None:
    result = without_rows(private).train(jobs_of(private)[:1], [{}])[0]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in result.outcome.delta.values())
    assert norm(result.outcome.delta) > 0
    assert result.spend is not None
    assert (result.spend.num_steps, result.spend.noise_multiplier) == (3, DP["noise_multiplier"])

    plain = without_rows(make_trainer(folder))  # control: nothing but the noise has moved it
    plain.checked = True
    assert norm(plain.train(jobs_of(plain)[:1], [{}])[0].outcome.delta) == 0


def test_a_bank_of_one_row_draws_it_now_and_then(private) -> None:
    name = next(iter(private.local.banks))
    one = replace(private.local.banks[name], train=private.local.banks[name].train[:1])
    private.local = replace(private.local, banks={**private.local.banks, name: one})
    mechanism = private.local.mechanisms[name]
    mechanism.plan = replace(mechanism.plan, num_examples=1, batch_size=0.4)
    result = private.train(jobs_of(private)[:1], [{}])[0]
    assert result.spend is not None
    assert (result.spend.sample_rate, result.spend.num_steps) == (0.4, 3)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in result.outcome.delta.values())
