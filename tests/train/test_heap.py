"""Memory of this process, as the system tells it."""

from __future__ import annotations

import pytest
import torch

from fedsim.train.heap import forget_peak, peak


def test_the_peak_is_that_of_what_came_after_it_was_forgotten() -> None:
    device = torch.device("cpu")
    torch.ones(60_000_000)  # 240 MB, gone before
    before = forget_peak(device)
    if before is None:
        pytest.skip("this system does not tell the peak of a process")
    torch.ones(20_000_000)  # 80 MB
    assert 70e6 < peak(device) - before < 200e6
