"""The workloads of ``fedsim bench`` without Ray and without a driver: ``Trainer`` on cohorts beside the bare loop.

    python -m tests.benchmarks.engine_only W1 W2 W3 W4

Both in this process on one thread, round by round in turn; a round is the training of its banks and the mean of what
they send. Prints one JSON line per workload: medians of CPU seconds per round, their ratio (bare loop over cohort), and
how far the two adapters are apart at the end, over what training has moved.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedsim.bench.bare import one_threaded, round_jobs
from fedsim.bench.compare import relative_error
from fedsim.bench.workloads import WORKLOADS, Workload, write
from fedsim.build.load import load_scenario
from fedsim.build.prepare import make_job, prepare
from fedsim.core.adapter import add, flatten, weighted_mean
from fedsim.core.scenario import Scenario
from fedsim.engine.resources import cohorts


def by_cohort(scenario: Scenario) -> Iterator[Tensor]:
    """(P,) the global adapter before the first and after every round, by the engine's trainer."""
    material = prepare(scenario)
    job = make_job(scenario, material, "")
    trainer, actors = replace(job.make_client.make_trainer, threads=1)(), replace(job.actors, num_actors=1)
    adapter, banks = trainer.new_adapter(scenario.seed), [bank.name for bank in material.banks]
    yield flatten(adapter.tensors)
    for round_ in range(scenario.num_rounds):
        jobs = [replace(one, adapter=adapter) for one in round_jobs(scenario, banks, round_)]
        trained = []
        for group in cohorts(len(jobs), actors):
            trained += trainer.train([jobs[index] for index in group], [{}] * len(group))
        mean = weighted_mean([one.outcome.delta for one in trained], [one.num_examples for one in trained])
        adapter = adapter.with_tensors(add(adapter.tensors, mean))
        yield flatten(adapter.tensors)


def by_loop(scenario: Scenario) -> Iterator[Tensor]:
    """The same by PEFT and Opacus, one bank after the other."""
    banks = [bank.name for bank in prepare(scenario).banks]
    loop = one_threaded(scenario)
    flat = loop.flat()
    yield flat
    for round_ in range(scenario.num_rounds):
        jobs = round_jobs(scenario, banks, round_)
        flat = (loop.share(flat, jobs) / len(jobs)).float()
        yield flat


def in_turn(runs: Sequence[Iterator[Tensor]]) -> tuple[list[list[Tensor]], list[list[float]]]:
    """(adapters, CPU seconds of each step) of iterators that take turns, so that both see the same machine."""
    adapters: list[list[Tensor]] = [[] for _ in runs]
    seconds: list[list[float]] = [[] for _ in runs]
    more = True
    while more:
        for number, run in enumerate(runs):
            start = time.process_time()
            adapter = next(run, None)
            if adapter is None:
                more = False
                continue
            seconds[number].append(time.process_time() - start)
            adapters[number].append(adapter)
    return adapters, seconds


def measure(name: str, workload: Workload) -> dict[str, Any]:
    before = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        scenario = load_scenario(write(workload, Path(folder)))
        (ours, bare), seconds = in_turn([by_cohort(scenario), by_loop(scenario)])
    torch.set_num_threads(before)
    cohort_s, loop_s = (statistics.median(taken[1:]) for taken in seconds)  # the first made the model
    return {
        "workload": name,
        "cohort_cpu_s_per_round": round(cohort_s, 3),
        "loop_cpu_s_per_round": round(loop_s, 3),
        "ratio": round(loop_s / cohort_s, 2),
        "tokens_per_round": workload.tokens_per_round,
        "rounds": workload.rounds,
        "rel_err": relative_error(ours[-1], bare[0], bare[-1]),
        "torch": torch.__version__,
    }


def main(names: Sequence[str]) -> None:
    warnings.filterwarnings("ignore", "Full backward hook")  # Opacus' of token vectors, which are not trained
    for name in names or WORKLOADS:
        print(json.dumps(measure(name, WORKLOADS[name])), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
