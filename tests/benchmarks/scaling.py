"""What a round costs as more banks take part in it, and as more banks are registered.

    python -m tests.benchmarks.scaling results/published/scaling.svg

prints a table and draws it. Every run is the whole of ``fedsim run --inline``: a tiny Llama with random weights,
DP-SGD, one local step of 8 rows of 48 tokens per bank, run directory and privacy ledger written. Runs on the same banks
share a process, which has read and tokenised the rows. CPU seconds stand beside wall seconds, so that the figures mean
something on a machine that others use too.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from fedsim.bench.workloads import Workload, write
from fedsim.build.load import load_scenario
from fedsim.build.prepare import Job, prepare
from fedsim.build.run import Inline, run_on
from fedsim.core.events import Event, RoundRow
from fedsim.engine.actor import ClientActor
from fedsim.engine.driver import Driver
from fedsim.engine.pool import InlinePool
from fedsim.records.charts import Chart, curves

SAMPLED, REGISTERED = (10, 30, 100, 300, 1000), (100, 1000, 10_000)
MOST, FEW = 10_000, 20  # registered where SAMPLED varies, sampled where REGISTERED does
ROUNDS = 2
CLEAR_REFS = Path("/proc/self/clear_refs")  # proc(5)


@dataclass(frozen=True)
class Point:
    """One run. Per round: medians over the rounds. ``driver_cpu_s`` is all but training and evaluation."""

    registered: int
    sampled: int
    round_s: float
    round_cpu_s: float
    driver_cpu_s: float
    before_cpu_s: float  # from reading the files to the first round
    peak_rss_mb: float


class Metered(ClientActor):
    """An actor that knows how much CPU time it took to train and to evaluate."""

    cpu_s = 0.0

    def train(self, *arguments):  # type: ignore[no-untyped-def]
        start = time.process_time()
        answers = super().train(*arguments)
        self.cpu_s += time.process_time() - start
        return answers

    def evaluate(self, *arguments):  # type: ignore[no-untyped-def]
        start = time.process_time()
        scores = super().evaluate(*arguments)
        self.cpu_s += time.process_time() - start
        return scores


class MeteredInline(Inline):
    """``fedsim run --inline`` with such an actor."""

    client: Metered

    def events(self, job: Job) -> Generator[Event, None, None]:
        make = job.make_client
        self.client = Metered(make.make_trainer, make.rule, make.upload, make.secure, make.failures)
        yield from Driver(job.plan, InlinePool(self.client, job.actors)).run()


def prepared(folder: Path, registered: int, sampled: int) -> Path:
    """The scenario file, with model and data."""
    return write(Workload(64, 2, registered, sampled, steps=1, rounds=ROUNDS, is_private=True), folder)


def measured(file: Path, sampled: Sequence[int], out: Path) -> Iterator[Point]:
    """Of runs in this process, one for each number of the file's banks in a round."""
    begin = time.process_time()
    registered = load_scenario(file).partition.knobs["num_banks"]
    material = prepare(load_scenario(file))
    reading = time.process_time() - begin
    for number in sampled:
        scenario, place = load_scenario(file, [f"client_fraction={number / registered}"]), MeteredInline()
        CLEAR_REFS.write_text("5")  # the peak counts from here
        begin = time.process_time()
        laps: list[tuple[float, float, float]] = []  # wall, CPU, the actor's CPU
        for event in run_on(place, scenario, material, out / f"run-{number}"):
            if isinstance(event, RoundRow):
                laps.append((time.perf_counter(), time.process_time(), place.client.cpu_s))
        wall, cpu, actor = zip(*([b - a for a, b in zip(x, y, strict=True)] for x, y in pairwise(laps)), strict=True)
        yield Point(
            registered=registered,
            sampled=number,
            round_s=statistics.median(wall),
            round_cpu_s=statistics.median(cpu),
            driver_cpu_s=statistics.median(whole - part for whole, part in zip(cpu, actor, strict=True)),
            before_cpu_s=reading + laps[0][1] - begin,
            peak_rss_mb=peak_rss_mb(),
        )


def peak_rss_mb() -> float:
    """Of this process, since it was last told to forget."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(text.split()[1]) for text in lines if text.startswith("VmHWM:")) / 1024


def points() -> Iterator[Point]:
    """By registered, then by sampled banks; a process for each number of registered ones."""
    for registered in REGISTERED:
        sampled = (FEW,) if registered < MOST else sorted({FEW, *SAMPLED})
        with tempfile.TemporaryDirectory() as folder:
            file = prepared(Path(folder), registered, FEW)
            command = [sys.executable, "-m", "tests.benchmarks.scaling", str(file), *map(str, sampled)]
            done = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            for text in done.stdout or ():
                yield Point(**json.loads(text))
            if done.wait():
                raise SystemExit(done.returncode)


def line(point: Point) -> str:
    cells = [f"{point.registered:,}", f"{point.sampled:,}", f"{point.round_s:.2f}", f"{point.round_cpu_s:.2f}"]
    cells += [f"{1000 * point.round_cpu_s / point.sampled:.1f}", f"{point.driver_cpu_s:.2f}"]
    cells += [f"{point.before_cpu_s:.1f}", f"{point.peak_rss_mb:.0f}"]
    return f"| {' | '.join(cells)} |"


COLUMNS = (
    "registered",
    "sampled",
    "round, s",
    "round, CPU s",
    "CPU ms per sampled bank",
    "of the round, driver, CPU s",
    "before round 1, CPU s",
    "peak RSS, MB",
)


def chart(found: Sequence[Point]) -> Chart:
    """CPU seconds of a round by sampled banks, with 10,000 registered."""
    grown = [point for point in found if point.registered == MOST]
    x = np.array([point.sampled for point in grown], dtype=float)
    lines = {"whole round": [point.round_cpu_s for point in grown], "driver": [point.driver_cpu_s for point in grown]}
    drawn = {name: (x, np.array(values), np.full(len(x), np.nan)) for name, values in lines.items()}
    return curves(drawn, f"banks sampled, of {MOST} registered", "CPU seconds of a round")


def main(picture: Path) -> None:
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    found = []
    for point in points():
        found.append(point)
        print(line(point), flush=True)
    chart(found).save(picture)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        main(Path(sys.argv[1]))
    else:
        given = Path(sys.argv[1])
        for point in measured(given, [int(number) for number in sys.argv[2:]], given.parent):
            print(json.dumps(asdict(point)), flush=True)
