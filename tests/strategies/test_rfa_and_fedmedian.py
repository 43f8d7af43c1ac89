"""Medians of updates: golden points, equivariances, and what one bank that sends anything can do."""

from __future__ import annotations

import pytest
import torch

from fedsim.core.adapter import AdapterState
from fedsim.strategies import STRATEGIES
from tests.strategies.toy import answer, close, draw, infos, new_banks

POINTS = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1], [100, 100]], dtype=torch.float64)
KINDS = ("rfa", "fedmedian")


def after(kind: str, points: torch.Tensor, sizes: list[int] | None = None, **knobs: float) -> torch.Tensor:
    """Where the server goes from 0 when banks end at these points."""
    strategy = STRATEGIES.create(kind, knobs)
    sizes = sizes or [1] * len(points)
    start = AdapterState({"head.x": torch.zeros(points.shape[1], dtype=points.dtype)}, 1, 1.0)
    state = strategy.init(start, infos(new_banks(sizes)), seed=1)
    ended = [start.with_tensors({"head.x": point}) for point in points]
    return strategy.aggregate(state, answer(strategy, state, ended, sizes)).adapter.tensors["head.x"]


def test_golden_points() -> None:
    assert close(after("rfa", POINTS, num_iters=2000), torch.tensor([0.788675, 0.788675]), 1e-6)
    assert torch.equal(after("fedmedian", POINTS), torch.tensor([1.0, 1.0], dtype=torch.float64))
    assert torch.equal(after("fedmedian", POINTS[:4]), torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert close(after("fedavg", POINTS), torch.tensor([20.4, 20.4], dtype=torch.float64), 1e-12), "control"


def test_one_step_of_weiszfeld_by_hand() -> None:
    """0, 1 and 10 with 1, 1 and 2 rows: from the mean 5.25, beta = 1/21, 1/17, 2/19 of a quarter of a quarter."""
    beta = torch.tensor([0.25 / 5.25, 0.25 / 4.25, 0.5 / 4.75], dtype=torch.float64)
    expected = (beta * torch.tensor([0.0, 1.0, 10.0])).sum() / beta.sum()
    found = after("rfa", torch.tensor([[0.0], [1.0], [10.0]], dtype=torch.float64), [1, 1, 2], num_iters=1)
    assert close(found, expected[None], 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_updates_are_the_update(kind: str) -> None:
    """Weiszfeld's algorithm does not divide by the distance 0."""
    point = draw(7, seed=1)
    assert close(after(kind, point.repeat(4, 1), [3, 1, 4, 1]), point, 1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_banks_and_where_they_all_are_do_not_matter(kind: str) -> None:
    points, shift = draw(6, 5, seed=2), draw(5, seed=3)
    assert close(after(kind, points.flip(0)), after(kind, points), 1e-12)
    assert close(after(kind, points + shift), after(kind, points) + shift, 1e-12)


def test_what_turns_and_what_is_scaled() -> None:
    points = draw(6, 5, seed=4)
    turn, _ = torch.linalg.qr(draw(5, 5, seed=5))
    assert close(after("rfa", points @ turn), after("rfa", points) @ turn, 1e-12)
    scales = torch.tensor([1.0, 10.0, 0.1, 3.0, 2.0], dtype=torch.float64)
    assert close(after("fedmedian", points * scales), after("fedmedian", points) * scales, 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bank_however_far_away_moves_the_result_by_a_bounded_amount(kind: str) -> None:
    points = draw(5, 4, seed=6)
    honest, spread = after(kind, points[:4]), (points[:4] - points[:4].mean(0)).norm(dim=1).max()
    for far in (1e2, 1e4, 1e6):
        hostile = torch.cat([points[:4], far * points[4:]])
        assert (after(kind, hostile) - honest).norm() < 3 * spread
        assert (after("fedavg", hostile) - honest).norm() > far / 20, "control"
