"""The engine without Ray and driver trains what the bare loop trains. No time is asserted."""

from __future__ import annotations

import pytest
import torch

from fedsim.bench.workloads import Workload
from tests.benchmarks.engine_only import in_turn, measure

SMALL = Workload(32, 1, banks=3, sampled=2, steps=1, rounds=2, is_private=True)


@pytest.mark.filterwarnings("ignore")  # PEFT's and Opacus' of each other and of transformers
def test_the_cohort_trains_the_adapter_of_the_loop() -> None:
    figures = measure("small", SMALL)
    assert figures["rel_err"] < 1e-5
    assert figures["ratio"] > 0
    assert figures["tokens_per_round"] == 2 * 8 * 48


def test_turns_end_together() -> None:
    adapters, seconds = in_turn([iter([torch.zeros(1), torch.ones(1)]) for _ in range(2)])
    assert [[float(one) for one in run] for run in adapters] == [[0.0, 1.0]] * 2
    assert [len(taken) for taken in seconds] == [2, 2]
