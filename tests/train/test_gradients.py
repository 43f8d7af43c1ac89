"""Norms and sums of row gradients: accurate enough that clipping bounds what it promises to bound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsim.core import seeds
from fedsim.core.adapter import AdapterState
from fedsim.core.rows import TokenRows
from fedsim.core.sections import Lora
from fedsim.models.base import CohortModel
from fedsim.models.hf import HuggingFace
from fedsim.privacy import Mechanism, mechanism_for
from fedsim.privacy.base import BankPlan
from fedsim.train.cohort import CohortState
from fedsim.train.gradients import Gradients, Tally, physical_batches, row_norms
from fedsim.train.sampling import Drawn
from tests import tiny

TARGETS = {"causal_lm": ["q_proj", "v_proj"], "sequence_classification": ["query", "value"]}
ROWS = np.arange(12)


@pytest.mark.parametrize("length", [1, 1023, 1024, 1025, 300_001])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_norms_are_accurate_at_any_length(length: int, scale: float) -> None:
    rows = scale * torch.randn(4, length, generator=seeds.generator(1, "rows"))
    exact = rows.double().norm(dim=1)
    assert float(((row_norms(rows).double() - exact) / exact).abs().max()) < 2e-7


def test_a_long_row_is_clipped_to_its_bound() -> None:
    rows = torch.rand(3, 500_000, generator=seeds.generator(2, "rows")) + 1
    assert float(dp(0.7).weights(row_norms(rows)).double() @ rows.double().norm(dim=1)) <= 3 * 0.7 * (1 + 1e-6)
    assert row_norms(torch.zeros(2, 5000)).tolist() == [0, 0]
    assert row_norms(torch.zeros(0, 5000)).shape == (0,)


def test_norms_that_are_not_finite_stay_so() -> None:
    rows = torch.zeros(3, 3000)
    rows[0, 2999], rows[1, 5] = torch.inf, torch.nan
    assert torch.isfinite(row_norms(rows)).tolist() == [False, False, True]


def drawn(*lengths: int) -> Drawn:
    """Rows whose index is their length."""
    return Drawn.of_rows(np.array(lengths))


def test_rows_of_similar_length_share_a_part_in_the_order_of_banks() -> None:
    parts = physical_batches([drawn(9, 2), drawn(3, 8)], 2, lambda rows: rows)
    assert [part.rows.tolist() for part in parts] == [[2, 3], [9, 8]]
    assert [part.banks.tolist() for part in parts] == [[0, 1], [0, 1]]
    assert [part.units.tolist() for part in parts] == [[0, 1], [0, 1]]


def test_rows_stay_with_their_bank_where_little_padding_is_saved() -> None:
    parts = physical_batches([drawn(9, 8), drawn(9, 8)], 2, lambda rows: rows)
    assert [part.rows.tolist() for part in parts] == [[9, 8], [9, 8]]


def test_a_customer_is_never_cut_for_its_lengths() -> None:
    customers = Drawn(np.array([9, 2, 8, 3]), np.array([0, 0, 1, 1]))
    parts = physical_batches([customers], 2, lambda rows: rows)
    assert [(part.rows.tolist(), part.units.tolist()) for part in parts] == [([9, 2], [0, 0]), ([8, 3], [0, 0])]


def dp(bound: float) -> Mechanism:
    plan = BankPlan("bank-01", num_examples=len(ROWS), batch_size=4, steps_per_round=1, num_rounds=1)
    return mechanism_for("dp_sgd", {"noise_multiplier": 1.0, "max_grad_norm": bound, "dp_delta": 1e-2}, plan)


def clipped_sum(
    loaded: tuple[CohortModel, TokenRows, AdapterState], bound: float, rows: np.ndarray, max_rows: int = 256
) -> torch.Tensor:
    """(P,) what one step releases before the noise."""
    model, encoded, adapter = loaded
    state = CohortState([adapter], list(adapter.tensors), model.device)
    return Gradients(model, encoded, state, [dp(bound)]).sums([Drawn.of_rows(rows)], max_rows, [Tally()])[0]


@pytest.fixture(scope="module", params=[(task, bits) for task in TARGETS for bits in (None, 8, 4)], ids=str)
def loaded(request, tiny_folders: dict[str, Path]) -> tuple[CohortModel, TokenRows, AdapterState]:
    task, bits = request.param
    hf = HuggingFace(HuggingFace.Config(id=str(tiny_folders[task]), task=task, quant_bits=bits, max_length=64))
    model = hf.load(Lora(r=4, target_modules=TARGETS[task]), 2)
    return model, hf.encode(tiny.corpus()), model.new_adapter(0)


@given(
    seed=st.integers(0, 2**31),
    bound=st.floats(-4, 2).map(lambda exponent: 10.0**exponent),  # nothing clipped to everything clipped
    scale=st.sampled_from([0.01, 0.1, 1.0]),
    left_out=st.sampled_from(list(ROWS)),
    max_rows=st.sampled_from([3, 256]),
)
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_row_more_or_less_moves_the_sum_by_at_most_the_bound(loaded, seed, bound, scale, left_out, max_rows):
    model, encoded, start = loaded
    draw = seeds.generator(seed, "adapter")
    adapter = start.with_tensors({n: scale * torch.randn(t.shape, generator=draw) for n, t in start.tensors.items()})
    whole = clipped_sum((model, encoded, adapter), bound, ROWS, max_rows)
    without = clipped_sum((model, encoded, adapter), bound, ROWS[left_out != ROWS], max_rows)
    rounding = 5e-5  # also that of all other rows, whose products have another shape with one row less
    assert float((whole - without).double().norm()) <= bound * (1 + rounding)


def test_a_row_that_is_not_finite_contributes_nothing(loaded, monkeypatch) -> None:
    """Its loss is made infinite; the sum is then that of the other rows, and the operator is told."""
    model, encoded, adapter = loaded
    without = clipped_sum(loaded, 0.5, ROWS[1:])
    true_losses = type(model).row_losses

    def overflowing(self, batch):
        losses = true_losses(self, batch)
        return torch.cat([losses[:1] * torch.inf, losses[1:]])

    monkeypatch.setattr(type(model), "row_losses", overflowing)
    state = CohortState([adapter], list(adapter.tensors), model.device)
    counted = Tally()
    total = Gradients(model, encoded, state, [dp(0.5)]).sums([Drawn.of_rows(ROWS)], 256, [counted])[0]
    assert counted.not_finite == 1
    assert float((total - without).norm()) <= 1e-5
