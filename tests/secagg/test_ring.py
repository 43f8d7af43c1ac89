"""Quantised vectors, their ring and their bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.secagg.ring import Grid, from_ring, pack, packed_bytes, require_room, to_ring, unpack


def draws(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_codes_by_hand() -> None:
    """Four bits: fifteen codes from -7 to 7, a step of 1/7 for clip 1."""
    grid = Grid.over(1.0, 4)
    assert (grid.step, grid.max_code) == (1 / 7, 7)
    values = torch.tensor([0.0, 1.0, -1.0, 5.0, -5.0, 3 / 7, -2 / 7])
    assert (grid.encode(values, 1.0, draws()) - torch.tensor([0, 7, -7, 7, -7, 3, -2])).abs().max() <= 1
    assert grid.encode(values, 1.0, draws())[:5].tolist() == [0, 7, -7, 7, -7]
    assert grid.decode(torch.tensor([14, -7]), 2.0).tolist() == [1.0, -0.5]


def test_rounding_is_unbiased_and_within_a_step() -> None:
    grid = Grid.over(1.0, 6)
    values = torch.linspace(-0.9, 0.9, 37)
    codes = torch.stack([grid.encode(values, 0.5, draws(seed)) for seed in range(4000)])
    exact = 0.5 * values.double() / grid.step
    assert float((codes - exact).abs().max()) < 1
    assert float((codes.double().mean(0) - exact).abs().max()) < 5 * 0.5 / 4000**0.5


def test_the_mean_is_within_a_step_of_the_true_one() -> None:
    grid, values = Grid.over(1.0, 12), torch.rand(8, 500, generator=draws()) * 2 - 1
    total = sum(grid.encode(values[bank], 1.0, draws(bank)) for bank in range(8))
    assert float((grid.decode(total, 8.0) - values.mean(0)).abs().max()) <= grid.step


def test_weights_come_after_the_cut_and_large_banks_keep_their_range() -> None:
    """A bank of 10 000 rows and one of 20: both use the whole range, and rows weigh alike."""
    grid, sizes = Grid.over(1.0, 20), [10_000, 20]
    values = torch.tensor([[0.9, -0.95, 0.1], [-0.9, 0.95, 0.7]])
    total = sum(grid.encode(values[k], sizes[k] / 10_000, draws(k)) for k in range(2))
    mean = grid.decode(total, sum(sizes) / 10_000)
    true = (values * torch.tensor(sizes)[:, None]).sum(0) / sum(sizes)
    assert float((mean - true).abs().max()) <= 2 * grid.step
    with pytest.raises(ValueError, match="relative to the largest bank"):
        grid.encode(values[0], 10.0, draws())


def test_values_on_the_grid_are_kept_exactly() -> None:
    step = 0.00123
    codes = torch.arange(-(2**20), 2**20, 997)
    values = (codes.double() * step).float()
    assert torch.equal(Grid(step, 2**21, exact=True).encode(values, 1.0, draws()), codes)
    assert not torch.equal(Grid(step, 2**21).encode(values, 1.0, draws()), codes)  # float32 is a little off the grid


def test_the_overflow_guard() -> None:
    grid = Grid.over(1.0, 16)
    assert [grid.ring_bits(banks) for banks in (1, 2, 8, 12, 16, 17)] == [16, 17, 19, 20, 20, 21]
    require_room(20, 16, grid.max_code)
    with pytest.raises(OverflowError, match="a sum of 17 codes up to 32767 does not fit a ring of 20 bits"):
        require_room(20, 17, grid.max_code)
    with pytest.raises(OverflowError, match="at most 62"):
        Grid(1.0, 2**60).ring_bits(4)
    extreme = to_ring(torch.full((3,), grid.max_code), 20) * np.uint64(16)
    assert from_ring(extreme, 20).tolist() == [16 * grid.max_code] * 3


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        Grid.over(1.0, 8).encode(torch.tensor([1.0, float("nan")]), 1.0, draws())


@pytest.mark.parametrize("bits", [5, 8, 19, 20, 32, 33, 62])
def test_packing_is_exact_at_every_width(bits: int) -> None:
    elements = np.random.default_rng(bits).integers(0, 2**bits, 101, dtype=np.uint64)
    elements[:2] = 0, 2**bits - 1
    body = pack(elements, bits)
    assert len(body) == packed_bytes(101, bits) == (101 * bits + 7) // 8
    assert np.array_equal(unpack(body, bits, 101), elements)
    signed = from_ring(elements, bits)
    assert np.array_equal(to_ring(signed, bits), elements)
    assert int(signed.min()) >= -(2 ** (bits - 1))
    assert int(signed.max()) < 2 ** (bits - 1)
    with pytest.raises(FedsimError, match=f"101 values of {bits} bits has {len(body)} bytes"):
        unpack(body + b"\0", bits, 101)


def test_twenty_bits_for_twelve_banks_of_sixteen() -> None:
    assert packed_bytes(1000, Grid.over(1.0, 16).ring_bits(12)) == 2500  # float32: 4000
