"""The benchmark computes what the bare loop computes, and says what it measured. No time is asserted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from fedsim.bench.bare import rounds
from fedsim.bench.compare import as_text, compare, relative_error
from fedsim.bench.measure import descendants, measure
from fedsim.bench.workloads import WORKLOADS, Workload, write
from fedsim.build.run import run
from fedsim.core.adapter import flatten
from fedsim.core.errors import FedsimError
from fedsim.core.events import Served

SMALL = Workload(64, 2, banks=6, sampled=4, steps=2, rounds=2, is_private=True)


def test_tokens_of_a_round_are_those_of_the_sampled_banks() -> None:
    assert WORKLOADS["W4"].tokens_per_round == 20 * 2 * 8 * 48


def test_what_a_command_takes_is_seen() -> None:
    burn = "import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass\nx = b'x' * 10**8"
    measured = measure([sys.executable, "-c", burn + "; time.sleep(0.5)"])
    assert measured.cpu_s > 0.45
    assert measured.rss_mb > 100
    assert measured.start <= time.time() - measured.wall_s


def test_seconds_of_a_process_that_nobody_waited_for_are_seen() -> None:
    """As Ray's workers are killed at the end of a run."""
    burn = "import time\nwhile time.process_time() < 0.5: pass\nprint('done', flush=True); time.sleep(60)"
    parent = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {burn!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); time.sleep(0.5); child.kill(); os._exit(0)"
    )
    assert measure([sys.executable, "-c", parent]).cpu_s > 0.45


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(FedsimError, match="no such workload"):
        measure([sys.executable, "-c", "raise SystemExit('no such workload')"])


def test_descendants_are_children_of_children() -> None:
    child = subprocess.Popen(["sh", "-c", "sleep 5 & wait"])
    end = time.time() + 20
    while len(descendants(child.pid)) < 1 and time.time() < end:
        time.sleep(0.01)
    inner = descendants(child.pid)
    assert len(inner) == 1
    assert {child.pid, *inner} <= set(descendants(os.getpid()))
    os.kill(inner[0], 15)
    child.wait()


@pytest.mark.filterwarnings("ignore")  # PEFT's and Opacus' of each other and of transformers
@pytest.mark.parametrize("is_private", [True, False], ids=["dp", "plain"])
def test_a_run_trains_the_adapter_of_the_bare_loop(tmp_path, is_private) -> None:
    file = write(replace(SMALL, is_private=is_private), tmp_path)
    start, *_, reference = rounds(file, processes=0)
    served = [event.adapter for event in run(file, out=tmp_path / "run", inline=True) if isinstance(event, Served)]
    assert relative_error(flatten(served[0].tensors), start, reference) < 1e-5


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("workload", [SMALL, *WORKLOADS.values()], ids=["small", *WORKLOADS])
def test_the_engine_trains_the_adapter_of_the_bare_loop(workload) -> None:
    figures = compare("of a test", workload)
    assert figures["rel_err"] < 1e-4
    print(as_text(figures))
