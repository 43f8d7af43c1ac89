"""Every shipped scenario, broken in every way: the place of each problem and an exit code, and nothing else.

``check`` reads the file; ``run`` goes on through data, split, privacy and model to the moment where Ray would start.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.calling import Answer, Command, StartedRay
from tests.fuzz.conftest import seeds
from tests.fuzz.mutations import broken_yaml

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = sorted((ROOT / "scenarios").rglob("*.yaml"))
SMALL = sorted((ROOT / "scenarios" / "methods").glob("*.yaml"))
CODES = {0, 2, 3, 4, 6, 8}
MEMORY = 12 << 30  # bytes that a broken scenario may ask for


@pytest.fixture
def bounded() -> Iterator[None]:
    """Memory that runs out before the machine's does."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def examine(answer: Answer, where: str) -> None:
    """An exit code of the list; and every line of an error has its place, or is about the whole file."""
    assert answer.code in CODES, answer
    assert "Traceback" not in answer.err
    if answer.code:
        assert answer.out == ""
        for line in answer.err.splitlines():
            assert re.match(where, line), line


def check(command: Command, seed: int) -> int:
    """Break a scenario, and have it checked."""
    rng = Random(seed)
    Path("f.yaml").write_bytes(broken_yaml(rng.choice(SCENARIOS).read_text(), rng))
    answer = command("check", "f.yaml")
    examine(answer, r"f\.yaml:\d+:\d+: ")
    return answer.code


def run(command: Command, seed: int) -> str:
    """Break a small scenario, and run it up to Ray. What the file does not name is no file's fault: ``--out``."""
    rng = Random(seed)
    Path("f.yaml").write_bytes(broken_yaml(rng.choice(SMALL).read_text(), rng))
    try:
        answer = command("run", "f.yaml", "--out", f"out-{seed}")
    except StartedRay:
        return "would have started Ray"
    assert answer.code != 0
    examine(answer, r"f\.yaml:\d+:\d+: ")
    return f"exit {answer.code}"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_a_broken_scenario_is_checked(command: Command, seed: int) -> None:
    check(command, seed)


@pytest.mark.usefixtures("bounded")
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_a_broken_scenario_is_run_up_to_ray(command: Command, seed: int) -> None:
    run(command, seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_broken_scenarios_are_checked(command: Command, fuzz_report) -> None:
    with fuzz_report("`fedsim check`, all shipped scenarios") as counts:
        for seed in seeds(8000):
            counts[f"exit {check(command, seed)}"] += 1
    assert {"exit 0", "exit 2", "exit 8"} <= set(counts)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("bounded")
def test_many_broken_scenarios_are_run_up_to_ray(command: Command, fuzz_report) -> None:
    with fuzz_report("`fedsim run` up to Ray, scenarios of methods") as counts:
        for seed in seeds(1200):
            counts[run(command, seed)] += 1
    assert {"would have started Ray", "exit 2"} <= set(counts)
