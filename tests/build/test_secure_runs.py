"""Whole runs on masked sums with a small random model and three banks."""

from __future__ import annotations

import math

import pytest
import torch

from fedsim.core.adapter import flatten
from fedsim.core.errors import ScenarioError
from tests.smoke import SCENARIOS, Played, play

FEDAVG, FLASC = (next(path for path in SCENARIOS if path.stem == name) for name in ("fedavg", "flasc_client_freeze"))
MASKED = "secure_aggregation={kind: secagg, dropout: 0.2}"
PRIVACY = "privacy={{kind: dp_bank_distributed, noise_multiplier: {}, dp_delta: 1e-5, noise_steps: 4096}}"


def final(run: Played) -> torch.Tensor:
    return flatten(run.served.adapter.tensors)


def test_a_masked_run_ends_where_a_plain_one_does() -> None:
    plain, masked = play(FEDAVG, ["num_rounds=2"]), play(FEDAVG, ["num_rounds=2", "secure_aggregation={kind: secagg}"])
    assert [len(exchanges) for exchanges in masked.rounds] == [1, 1]
    assert float((final(plain) - final(masked)).abs().max()) < 1e-4
    assert float((final(plain) - final(masked)).abs().max()) > 0
    assert masked.rows[-1].bytes_up < plain.rows[-1].bytes_up
    assert masked.rows[-1].oracle["plain_bytes_up"] * 3 == plain.rows[-1].bytes_up


def test_frozen_coordinates_are_not_sent() -> None:
    more = ["num_rounds=2", "strategy.density_up=1", "secure_aggregation={kind: secagg}"]
    first, second = play(FLASC, more).rows[1:]
    assert second.bytes_up < 0.6 * first.bytes_up


@pytest.mark.parametrize("noise", [0.5, 4.0])
def test_the_sum_of_noised_updates_is_opened_exactly(noise: float) -> None:
    """Every mean is a whole number of steps over the number of banks, and has the noise of all that are left."""
    run = play(FEDAVG, ["num_rounds=2", "seed=9", MASKED, PRIVACY.format(noise)])
    assert [len(row.failed) for row in run.rows] == [0, 1, 0]
    step = noise / (1.0 * 4096)  # the least that are opened are two, so one other
    for (exchange,), row in zip(run.rounds, run.rows[1:], strict=True):
        present = sum(bank.participated for bank in row.banks)
        codes = flatten(exchange.update.delta).double() * present / step
        assert float((codes - codes.round()).abs().max()) < 0.01
        deviation = float(codes.std()) * step
        signal = present / math.sqrt(codes.numel())  # at most: every update of norm 1, all alike
        assert math.sqrt(present) * noise * 0.95 < deviation < math.hypot(math.sqrt(present) * noise * 1.05, signal)
        assert row.oracle["cut_off_share"] == 0
    assert 0 < run.rows[-1].epsilon < math.inf


def test_too_coarse_a_grid_names_the_knob() -> None:
    with pytest.raises(ScenarioError, match=r"noise_steps: an update of \d+ values that is rounded to 16 steps"):
        play(FEDAVG, ["num_rounds=1", "seed=9", MASKED, PRIVACY.format(4.0).replace("4096", "16")])
