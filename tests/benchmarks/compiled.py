"""Whether torch.compile pays: the trainer with the fused pieces, without them, and without them but compiled.

    python -m tests.benchmarks.compiled W1 W2 W3

All three train the same banks in this process on one thread, round by round in turn. Prints for each workload and way
the seconds of its first round (which compiles), the CPU seconds of a later one, those of the fused pieces over them,
and how far its adapter is from theirs, over what training has moved.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from fedsim.bench.compare import relative_error
from fedsim.bench.workloads import WORKLOADS, write
from fedsim.build.load import load_scenario
from fedsim.core.latest import Latest
from fedsim.core.scenario import Scenario
from fedsim.models import lora, network, shortcuts
from fedsim.models.base import CohortModel
from fedsim.train import factory
from tests.benchmarks.engine_only import by_cohort

WAYS = ("fused pieces", "transformers' layers", "transformers' layers, compiled")


def low_rank(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: Tensor) -> Tensor:
    """``fused.low_rank`` as torch writes it."""
    hidden = torch.bmm(x, a.transpose(1, 2)) * scaling
    return torch.nn.functional.linear(x, weight, bias) + torch.bmm(hidden, b.transpose(1, 2))


class Compiled(network.Adapted):
    """A network whose forward pass, and with it the backward pass, torch compiles for every shape that comes."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.network.forward = torch.compile(self.network.forward, dynamic=False)


def rounds(scenario: Scenario, way: str) -> Iterator[Tensor]:
    """The adapters of ``by_cohort``; the patches hold while it works and not while others do."""
    run = by_cohort(scenario)
    loaded: Latest[CohortModel] = Latest()
    while True:
        with ExitStack() as stack:
            stack.enter_context(patch.object(factory, "_loaded", loaded))
            if way != WAYS[0]:
                stack.enter_context(patch.object(shortcuts, "shorten", lambda network: None))
                stack.enter_context(patch.object(shortcuts, "MODEL_TYPES", ()))
                stack.enter_context(patch.object(lora, "low_rank", low_rank))
            if way == WAYS[2]:
                stack.enter_context(patch.object(network, "Adapted", Compiled))
            adapter = next(run, None)
        if adapter is None:
            return
        yield adapter


def main(names: list[str]) -> None:
    print(
        "| workload | way | first round, s | later, CPU s | fused over it | relative error |\n|---|---|---|---|---|---|"
    )
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            scenario = load_scenario(write(WORKLOADS[name], Path(folder)))
            runs = {way: rounds(scenario, way) for way in WAYS}
            first = {way: next(run) for way, run in runs.items()}
            begun, last = dict[str, float](), dict[str, Tensor]()
            for way, run in runs.items():
                start = time.perf_counter()
                last[way] = next(run)
                begun[way] = time.perf_counter() - start
            cpu: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(scenario.num_rounds - 1):
                for way, run in runs.items():
                    start = time.process_time()
                    last[way] = next(run)
                    cpu[way].append(time.process_time() - start)
            medians = {way: statistics.median(seconds) for way, seconds in cpu.items()}
            for way, seconds in medians.items():
                error = f"{relative_error(last[way], first[way], last[WAYS[0]]):.0e}"
                cells = (name, way, f"{begun[way]:.1f}", f"{seconds:.2f}", f"{medians[WAYS[0]] / seconds:.2f}", error)
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
