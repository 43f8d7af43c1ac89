"""What the driver saves by sums near the data: ``python -m tests.benchmarks.sums [BANKS] [RANK]``.

The same run twice, ``fedsim run --inline`` with every bank in every round: once as it is, once with every update sent
to the driver (as for methods that work on each). One local step of 8 rows of a tiny Llama per bank, adapters of a large
rank.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from fedsim.build.load import load_scenario
from fedsim.build.prepare import Job, prepare
from fedsim.build.run import run_on
from fedsim.core.events import Event, RoundRow
from tests.benchmarks.scaling import CLEAR_REFS, MeteredInline, peak_rss_mb, prepared


class EveryUpdate(MeteredInline):
    """The driver looks at each update."""

    def events(self, job: Job) -> Generator[Event, None, None]:
        yield from super().events(replace(job, plan=replace(job.plan, audited=True)))


def main(banks: int, rank: int) -> None:
    columns = ("the driver gets", "update, MB", "CPU s of a round", "of it actor", "of it driver", "peak RSS, MB")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    with tempfile.TemporaryDirectory() as folder:
        file = prepared(Path(folder), banks, banks)
        scenario = load_scenario(file, [f"lora.r={rank}", "num_rounds=3"])
        material = prepare(scenario)
        for name, place in {"sums": MeteredInline(), "every update": EveryUpdate()}.items():
            CLEAR_REFS.write_text("5")
            laps, sent = list[tuple[float, float]](), 0
            for event in run_on(place, scenario, material, Path(folder) / name.replace(" ", "-")):
                if isinstance(event, RoundRow):
                    laps.append((time.process_time(), place.client.cpu_s))
                    sent = event.bytes_up
            whole, actor = (statistics.median(b - a for a, b in pairwise(column)) for column in zip(*laps, strict=True))
            cells = (name, f"{sent / banks / 2**20:.2f}", f"{whole:.2f}", f"{actor:.2f}", f"{whole - actor:.2f}")
            print(f"| {' | '.join(cells)} | {peak_rss_mb():.0f} |", flush=True)


if __name__ == "__main__":
    given = [int(number) for number in sys.argv[1:]]
    main(*(given + [256, 512][len(given) :]))
