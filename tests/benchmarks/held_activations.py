"""What ``lora.layers_to_transform`` saves: CPU seconds of a local step and of scoring, with held activations or not.

    python -m tests.benchmarks.held_activations scenarios/sba_banks.yaml

CPU seconds of one thread, so that the figures mean something on a machine that others use too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fedsim.build.load import load_scenario
from fedsim.build.prepare import make_job, prepare
from fedsim.core.messages import TrainJob
from fedsim.train.trainer import Trainer
from fedsim.train.values import EvalJob

BANKS, STEPS, SCORED = 6, 4, 256
ROUNDS = 60  # so many that every bank's rows are drawn more than once
CASES: tuple[tuple[tuple[int, ...] | None, bool], ...] = (
    (None, False),
    ((4, 5), False),
    ((4, 5), True),
    ((5,), False),
    ((5,), True),
)


def cpu_seconds(work: Callable[[], object], times: int) -> list[float]:
    """Of each of so many calls."""
    found = []
    for _ in range(times):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return found


def trained(trainer: Trainer) -> Callable[[], object]:
    """One job at each of the last banks."""
    names, adapter = list(trainer.local.banks)[-BANKS:], trainer.new_adapter(0)
    for mechanism in trainer.local.mechanisms.values():
        mechanism.plan = replace(mechanism.plan, steps_per_round=STEPS)
    jobs = [TrainJob(0, name, adapter, seed=number) for number, name in enumerate(names)]
    return lambda: trainer.train(jobs, [{}] * BANKS)


def main(file: str) -> None:
    scenario = load_scenario(file, [f"num_rounds={ROUNDS}", "model.dtype=float32"])
    material = prepare(scenario)
    test = np.unique(np.concatenate([bank.test for bank in material.banks]))[:SCORED]
    print(f"| adapted layers | held | step, first s | step, later s | {SCORED} rows scored, first s | later s |")
    print("|---|---|---|---|---|---|")
    for layers, holds in CASES:
        lora = scenario.lora.model_copy(update={"layers_to_transform": layers})
        job = make_job(scenario.model_copy(update={"lora": lora}), material, "")
        trainer = job.make_client.make_trainer()
        if not holds:
            trainer.model.remember(trainer.rows, [], [])
        scoring = [EvalJob(None, trainer.new_adapter(0), (), test)]
        first, *later = cpu_seconds(trained(trainer), 3)
        score_first, score_later = cpu_seconds(lambda: trainer.evaluate(scoring), 2)  # noqa: B023  called here
        name = "all" if layers is None else list(layers)
        figures = [first / STEPS, min(later) / STEPS, score_first, score_later]
        print(
            f"| {name} | {'yes' if holds else 'no'} | {' | '.join(f'{value:.2f}' for value in figures)} |", flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1])
