"""The classical mistakes of DP-SGD, put in on purpose: each is caught by the check that is there for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.models.tasks import CausalLM
from fedsim.privacy.dp_sgd import DPSGD
from fedsim.train.gradients import Gradients
from tests import tiny
from tests.privacy import checks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_llama(tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
def test_without_a_mistake_every_check_holds(folder, check) -> None:
    check(folder)


def caught(check: Callable[[Path], None], folder: Path) -> None:
    with pytest.raises((AssertionError, FedsimError)):
        check(folder)


def test_half_the_noise_is_caught(folder, monkeypatch) -> None:
    true_noise = DPSGD.noise
    monkeypatch.setattr(DPSGD, "noise", lambda self, numel, generator: true_noise(self, numel, generator) / 2)
    with pytest.raises(FedsimError, match="deviation"):  # the trainer's own first-step check
        checks.released(checks.make_trainer(folder, noise=2.0))
    monkeypatch.setattr("fedsim.train.trainer.check_noise", lambda noise, mechanism: None)
    caught(checks.noise_has_the_charged_deviation, folder)


def test_no_clipping_is_caught(folder, monkeypatch) -> None:
    monkeypatch.setattr(DPSGD, "weights", lambda self, norms: torch.ones_like(norms))
    caught(checks.one_row_moves_the_sum_by_at_most_the_bound, folder)


def test_skipping_empty_batches_is_caught(folder, monkeypatch) -> None:
    true_sums, true_noise, empty = Gradients.sums, DPSGD.noise, []

    def sums(self, batches, max_rows, tallies):
        empty[:] = [not len(batch) for batch in batches]
        return true_sums(self, batches, max_rows, tallies)

    def noise(self, numel, generator):
        return torch.zeros(numel) if empty[0] else true_noise(self, numel, generator)

    monkeypatch.setattr(Gradients, "sums", sums)
    monkeypatch.setattr(DPSGD, "noise", noise)
    monkeypatch.setattr("fedsim.train.trainer.check_noise", lambda noise, mechanism: None)
    monkeypatch.setattr("fedsim.train.trainer.check_moved", lambda *_: None)
    caught(checks.an_empty_batch_is_noised, folder)


def test_dividing_by_the_realised_batch_is_caught(folder, monkeypatch) -> None:
    true_sums = Gradients.sums

    def sums(self, batches, max_rows, tallies):
        expected = self.mechanisms[0].plan.batch_size
        return true_sums(self, batches, max_rows, tallies) * expected / max(1, len(batches[0]))

    monkeypatch.setattr(Gradients, "sums", sums)
    caught(checks.the_denominator_is_the_expected_batch_size, folder)


def test_a_token_mean_over_the_batch_is_caught(folder, monkeypatch) -> None:
    """The loss of transformers' own models: every row's gradient shrinks when a long answer joins the batch."""

    def token_mean(self, batch):
        tokens = batch.answer_lengths / batch.answer_lengths.sum()
        return true_losses(self, batch) * tokens

    true_losses = CausalLM.row_losses
    monkeypatch.setattr(CausalLM, "row_losses", token_mean)
    caught(checks.one_row_moves_the_sum_by_at_most_the_bound, folder)


def test_a_mistake_of_the_other_kind_is_not_what_a_check_sees(folder, monkeypatch) -> None:
    """The checks are specific: a skipped clip leaves the noise as charged, half the noise leaves sensitivity."""
    monkeypatch.setattr(DPSGD, "weights", lambda self, norms: torch.ones_like(norms))
    checks.noise_has_the_charged_deviation(folder)
    checks.an_empty_batch_is_noised(folder)
