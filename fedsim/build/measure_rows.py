"""``fedsim plan --measure``: how many rows should pass the network at once (``train.max_rows``), found by trying.

Which number is fastest depends on the machine, the model and the rows, so a run does not choose it by itself: sums of
another shape round differently, and the same seed would give other bits elsewhere. It is measured beforehand and
written into the scenario.

What is timed is the scenario's own training: the cohort of the first round with the most rows, as one actor trains it,
with an actor's threads, for a few local steps, the same rows with every size. A first look at each size, upward, finds
what fits, how much memory it takes and what is far too slow; the others are timed lap by lap, down and up in
turn, and compared within laps, so that whatever else the machine does falls on all of them. Of an actor with one
thread, CPU seconds are taken: on a busy machine they tell more than the clock on the wall. Lower layers that are run
once per row (``models.prefix``) have been run before, as in all but the first steps of a run. One actor trains alone
here: others beside it share caches and memory bandwidth. Evaluation, which keeps no gradients, takes as many rows at
once and is not timed. What is trained is thrown away.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch

from fedsim.build.laps import FEW, choose
from fedsim.build.plan import NOWHERE
from fedsim.build.prepare import Job, check_model, make_job, share_out, tokenise
from fedsim.build.split import Division
from fedsim.core.messages import TrainJob
from fedsim.core.rows import Corpus, TokenRows
from fedsim.core.scenario import Scenario
from fedsim.engine.actor import reported
from fedsim.engine.driver import drawn
from fedsim.engine.resources import cohorts
from fedsim.privacy.base import Mechanism
from fedsim.records.table import Table
from fedsim.records.text import UNKNOWN, human_bytes
from fedsim.train.heap import forget_peak, peak
from fedsim.train.trainer import Trainer

SIZES = (8, 16, 32, 64, 128, 256, 512)
LIMIT_S, MOST_LAPS = 60.0, 9
ENOUGH_S, MOST_STEPS = 0.5, 8  # as many local steps as take half a second, so that there is time for laps
SLOWER = 1.15  # twice in a row: larger sizes are not tried
FAR = 1.5  # times as slow as the fastest at the first look: no laps

Measured = Mapping[str, Any]
Tell = Callable[[str], None]


def sizes_for(most: int, present: int) -> list[int]:
    """What is worth trying where a step has ``most`` rows: from the size that holds them all on, nothing changes."""
    whole = 1 << max(3, (most - 1).bit_length())
    return sorted({size for size in SIZES if size <= whole} | {min(present, whole)})


def measured(scenario: Scenario, corpus: Corpus, division: Division, tell: Tell) -> Measured:
    """Rows per second by size, and which size to write down, as plain values; ``tell`` is told how it goes.

    Takes about a minute at most, unless a single training takes longer. ModelError when the model cannot be loaded,
    ResourceError when not even the smallest size fits into GPU memory.
    """
    material = share_out(scenario, division, tokenise(scenario, corpus))
    check_model(scenario, material)
    job = make_job(scenario, material, NOWHERE, exports=False)
    with reported("measuring train.max_rows"):
        return measure(job, tell)


def measure(job: Job, tell: Tell) -> Measured:
    """The same for a job."""
    if not job.plan.num_rounds:
        return {"unknown": "the method trains nothing"}
    trainer = job.make_client.make_trainer()
    bench = Bench(trainer, first_cohort(job, trainer))
    present = trainer.local.train.max_rows
    bench.warm_up(min(present, SIZES[0]))
    rows, tokens, most = bench.drawn()
    told = {
        "banks": [one.bank for one in bench.jobs],
        "steps": bench.steps,
        "rows": rows,
        "rows_of_a_step": most,
        "threads": job.actors.threads,
        "device": str(trainer.model.device),
        "seconds": "CPU" if bench.clock is time.process_time else "wall",
        "present": present,
    }
    if not rows:
        return {**told, "unknown": "no row was drawn in the first local steps"}
    sizes = sizes_for(most, present)
    here = min(present, sizes[-1])
    tell(f"measuring train.max_rows ({_listed(sizes)}) on {rows} rows, for up to {LIMIT_S:g} s")
    looked = bench.look(sizes, here, tell)
    if not looked.lap:
        return {**told, "unknown": looked.ended}
    near = {size: s for size, s in looked.lap.items() if s <= FAR * min(looked.lap.values()) or size == here}
    laps = bench.laps(near, tell)
    laps = laps if len(laps) >= FEW else [near, *laps]  # the first look then counts as one
    choice = choose(laps, here)
    seconds = {**looked.lap, **choice.seconds}
    by_size = [
        {
            "max_rows": size,
            "rows_per_s": rows / seconds[size],
            "tokens_per_s": tokens and tokens / seconds[size],
            "peak_bytes": looked.growth[size],
            "laps": len(laps) if size in near else 1,
        }
        for size in looked.lap
    ]
    best = present if choice.best == here else choice.best
    as_good = list(choice.as_good)
    return {**told, "sizes": by_size, "ended": looked.ended, "as_good": as_good, "max_rows": best, "gain": choice.gain}


def first_cohort(job: Job, trainer: Trainer) -> list[TrainJob]:
    """Of the cohorts in which an actor is given the first round's banks, the one with the most expected rows."""
    plan = job.plan
    state = plan.strategy.init(trainer.new_adapter(plan.seed), plan.infos, plan.seed)
    banks = drawn(plan, state) or plan.joined(0)  # a trusted server may draw none
    together = [[banks[index] for index in cohort] for cohort in cohorts(len(banks), job.actors)]
    largest = max(together, key=lambda names: sum(plan.mechanisms[name].plan.batch_size for name in names))
    return [plan.strategy.configure(state, bank, plan.seed) for bank in largest]


@dataclass(frozen=True, slots=True)
class Look:
    """The first training with every size that fits."""

    lap: Mapping[int, float]  # seconds
    growth: Mapping[int, int | None]  # bytes that it takes beside the weights, at its peak
    ended: str | None  # why larger sizes were not tried; None: they were


class Bench:
    """One trainer that trains the same jobs again and again. Whatever it gives is dropped."""

    def __init__(self, trainer: Trainer, jobs: Sequence[TrainJob]) -> None:
        self.trainer, self.jobs = trainer, list(jobs)
        self._whole, self._end = trainer.local, time.perf_counter() + LIMIT_S
        self._plans = {job.bank: trainer.local.mechanisms[job.bank].plan for job in jobs}
        on_one = trainer.model.device.type == "cpu" and torch.get_num_threads() == 1
        self.clock = time.process_time if on_one else time.perf_counter
        self.steps = 1

    def warm_up(self, size: int) -> None:
        """Decide on the number of steps, and run what is run only once: lower layers, libraries."""
        if self._train(size) < 2 * ENOUGH_S:  # even the first time
            affordable = int(ENOUGH_S / self._train(size))
            self.steps = max(1, min(affordable, MOST_STEPS, max(plan.steps_per_round for plan in self._plans.values())))
            self._train(size)

    def drawn(self) -> tuple[int, int | None, int]:
        """(rows of a training, their tokens or None of images, the most rows of a step)."""
        rows, tokens, most = 0, 0, 0
        for step in range(self.steps):
            active = [job for job in self.jobs if step < self._plans[job.bank].steps_per_round]
            batches = [self.trainer.drawn(job, step).rows for job in active]
            tokens += sum(int(self.trainer.rows.lengths(batch).sum()) for batch in batches)
            rows += sum(map(len, batches))
            most = max(most, sum(map(len, batches)))
        return rows, tokens if isinstance(self.trainer.rows, TokenRows) else None, most

    def look(self, sizes: Sequence[int], present: int, tell: Tell) -> Look:
        """Upward, until memory or time is over; once it was slower twice, of the larger ones the present size alone."""
        device, lap, growth = self.trainer.model.device, dict[int, float](), dict[int, int | None]()
        slower, ended = 0, None
        for size in sizes:
            if slower >= 2:
                ended = "they are slower"
                if size != present:
                    continue
            before = forget_peak(device)
            problem = self._problem(size, growth)
            if problem:
                return Look(lap, growth, problem)
            try:
                lap[size] = self._train(size)
            except torch.OutOfMemoryError:
                return Look(lap, growth, f"{size} rows at once do not fit into GPU memory")
            growth[size] = None if before is None else peak(device) - before
            tell(f"  {size} rows at once: {lap[size]:.2f} s")
            slower = slower + 1 if lap[size] > SLOWER * min(lap.values()) else 0
        return Look(lap, growth, ended)

    def _problem(self, size: int, growth: Mapping[int, int | None]) -> str | None:
        """Why this size should not be tried. Without a GPU there is no error to catch: the kernel ends the process."""
        if growth and time.perf_counter() > self._end:
            return f"{LIMIT_S:g} s are over"
        last = max(growth, default=0)
        needed = (growth[last] or 0) * size / last if growth else 0
        if self.trainer.model.device.type == "cpu" and needed > psutil.virtual_memory().available:
            return f"{size} rows at once may need {human_bytes(round(needed))} of memory"
        return None

    def laps(self, first: Mapping[int, float], tell: Tell) -> list[Mapping[int, float]]:
        """Seconds by size, again and again while there is time for as much as in the lap before."""
        found: list[Mapping[int, float]] = []
        start, last = time.perf_counter(), sum(first.values())
        while len(found) < MOST_LAPS and start + last < self._end:
            order = sorted(first, reverse=len(found) % 2 == 0)  # the first look went upward
            tell(f"  lap {len(found) + 1}: {_listed(order)}")
            timed = {size: self._train(size) for size in order}
            found.append({size: timed[size] for size in first})
            start, last = time.perf_counter(), time.perf_counter() - start
        return found

    def _train(self, size: int) -> float:
        """Seconds by ``clock`` with so many rows at once; what training gives has been copied to the CPU by then."""
        whole = self._whole
        mechanisms = {job.bank: _shortened(whole.mechanisms[job.bank], self.steps) for job in self.jobs}
        train = whole.train.model_copy(update={"max_rows": size})
        self.trainer.local = replace(whole, train=train, mechanisms=mechanisms)
        start = self.clock()
        self.trainer.train(self.jobs, [{}] * len(self.jobs))
        return self.clock() - start


def _shortened(mechanism: Mechanism, steps: int) -> Mechanism:
    """The same noise and sampling for at most so many steps."""
    short = copy.copy(mechanism)
    short.plan = replace(mechanism.plan, steps_per_round=min(steps, mechanism.plan.steps_per_round))
    return short


def as_text(told: Measured) -> str:
    """A table of the sizes, how they were measured, and the line to write."""
    if "unknown" in told:
        return f"train.max_rows: not measured ({told['unknown']})"
    where = f"{_many(len(told['banks']), 'bank')} in one actor, alone, {_many(told['threads'], 'thread')}"
    rows = []
    for one in told["sizes"]:
        tokens, growth = one["tokens_per_s"], one["peak_bytes"]
        cells = (UNKNOWN if tokens is None else f"{tokens:.0f}", UNKNOWN if growth is None else human_bytes(growth))
        rows.append((str(one["max_rows"]), f"{one['rows_per_s']:.1f}", *cells, str(one["laps"])))
    laps = max(one["laps"] for one in told["sizes"])
    rows_of = f"{told['rows']} rows in {_many(told['steps'], 'local step')}, at most {told['rows_of_a_step']} in one"
    notes = [
        f"{where} on {told['device']}; {rows_of}; {told['seconds']} seconds",
        *([f"larger ones were not tried: {told['ended']}"] if told["ended"] else []),
        *(["no time for more laps: small differences say nothing"] if laps < FEW else []),
        *([f"not told apart from the fastest: {_listed(told['as_good'])}"] if len(told["as_good"]) > 1 else []),
        f"train: {{max_rows: {told['max_rows']}}}  # {_verdict(told)}",
    ]
    return Table(("max_rows", "rows/s", "tokens/s", "memory", "laps"), (tuple(rows),), tuple(notes)).text()


def _verdict(told: Measured) -> str:
    if told["max_rows"] == told["present"]:
        return "as it is: nothing is clearly faster"
    if told["gain"] is None:
        return f"the present {told['present']} was not measured"
    return f"{told['gain']:.2f} times as fast as the present {told['present']}"


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"
