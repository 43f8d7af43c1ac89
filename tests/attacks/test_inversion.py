"""Words from gradients: recovered where nothing protects a row, and not where clipping and noise do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedsim.attacks.inversion import first_adapted, inverted, layer_inputs, word_scores
from fedsim.core.adapter import flatten, unflatten
from fedsim.core.sections import Lora
from fedsim.privacy.base import BankPlan
from fedsim.privacy.dp_sgd import DPSGD
from fedsim.privacy.sources import Seeded
from tests import smoke, tiny

PLAN = BankPlan("a", num_examples=100, batch_size=10, steps_per_round=1, num_rounds=1)
LORA = Lora(r=32, target_modules=["q_proj", "v_proj"])  # rows have at most 21 different words


@pytest.fixture(scope="module", params=["causal_lm", "sequence_classification"])
def target(request):
    """A model adapted in its first block, its rows and a new adapter: B is zero, as in the first round."""
    task = request.param
    modules = ["q_proj", "v_proj"] if task == "causal_lm" else ["query", "value"]
    base = smoke.LoadedOnce(smoke.config(task))
    model = base.load(LORA.model_copy(update={"target_modules": modules}), 2)
    return model, base.encode(tiny.corpus(12)), model.new_adapter(3)


def test_without_protection_the_words_of_a_row_are_recovered(target) -> None:
    """The positive control."""
    for row in range(4):
        told = inverted(*target, row, lambda gradient: gradient)
        assert told.auc > 0.99
        assert told.recovered > 0.9


def test_with_dp_sgd_they_are_not(target) -> None:
    mechanism = DPSGD(DPSGD.Config(noise_multiplier=1.0, dp_delta=1e-5), PLAN)
    areas = []
    for row in range(6):

        def release(gradient, row=row):
            flat = flatten(gradient)
            noise = mechanism.noise(len(flat), Seeded(row, "noise"))
            return unflatten(mechanism.weights(flat.norm()[None]) * flat + noise, gradient)

        areas.append(inverted(*target, row, release).auc)
    assert 0.3 < np.mean(areas) < 0.7


def test_scores_by_hand() -> None:
    """Two words span a plane of R^3; a third lies half in it."""
    hidden = torch.tensor([[1.0, 0, 0], [0, 2.0, 0], [0, 1.0, 1.0], [0, 0, 3.0]])[:, None].expand(-1, 2, -1)
    gradient = torch.outer(torch.tensor([1.0, 2]), hidden[0, 0]) + torch.outer(torch.tensor([3.0, -1]), hidden[1, 0])
    assert word_scores(gradient, hidden) == pytest.approx([1, 1, 0.5**0.5, 0])


def test_inputs_of_the_first_layer_depend_on_the_word_and_its_place_alone(target) -> None:
    model, _, adapter = target
    one, other = torch.tensor([[5, 6, 7]]), torch.tensor([[9, 6, 9]])
    a, b = layer_inputs(model, adapter, one), layer_inputs(model, adapter, other)
    assert torch.allclose(a[0, 1], b[0, 1], atol=1e-6)
    assert not torch.allclose(a[0, 0], b[0, 0])
    assert first_adapted(model).name in {name.rsplit(".", 1)[0] for name in adapter.tensors}
