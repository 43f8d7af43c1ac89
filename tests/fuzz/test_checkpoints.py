"""A run directory of which something is broken: the run goes on to its own bits, or says what is wrong."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fedsim
from tests.calling import Command
from tests.fuzz.conftest import seeds
from tests.fuzz.mutations import broken

SCENARIO = """\
num_rounds: 3
seed: 5
data: {kind: loan_book, num_banks: 2, rows_per_bank: 30}
partition: {kind: by_column, column: bank}
model: {kind: embedded}
lora: {r: 2, target_modules: [q_proj]}
train: {local_steps: 1, batch_size: 4}
privacy: {kind: dp_sgd, noise_multiplier: 1.0, dp_delta: 1e-4}
strategy: {kind: fdlora}
evaluate: {every: 3, metrics: [auc]}
"""
ADAPTER = "adapters/global/adapter_model.safetensors"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(the directory of a run that stopped after round 2 of 3, the hash of its adapter had it gone on)."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "s.yaml").write_text(SCENARIO)
    whole = fedsim.run(folder / "s.yaml", out=folder / "whole", inline=True)
    fedsim.run(folder / "s.yaml", ["num_rounds=2"], out=folder / "run", inline=True)
    for made in ("adapters", "summary.json"):
        path = folder / "run" / made
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder / "run", hashlib.sha256((whole.run_dir / ADAPTER).read_bytes()).hexdigest()


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(monkeypatch)


def resumed(command: Command, stopped: tuple[Path, str], rng: Random | None) -> str:
    """Break one or two files of the directory, or take them away, and go on."""
    run, reference = stopped
    shutil.rmtree("run", ignore_errors=True)
    shutil.copytree(run, "run")
    files = sorted(path for path in Path("run").rglob("*") if path.is_file())
    for path in rng.sample(files, rng.choice((1, 1, 2))) if rng else ():
        if rng and rng.random() < 0.15:
            path.unlink()
        elif rng:
            path.write_bytes(broken(path.read_bytes(), rng))
    answer = command("resume", "run", "--set", "num_rounds=3", "--inline", "--quiet")
    assert answer.code in (0, 2, 5, 6, 8), answer
    assert "Traceback" not in answer.err
    if answer.code == 0:
        assert hashlib.sha256(Path("run", ADAPTER).read_bytes()).hexdigest() == reference
        return "same bits"
    assert answer.err.strip()
    return f"exit {answer.code}"


def test_a_whole_directory_goes_on(command: Command, stopped: tuple[Path, str]) -> None:
    assert resumed(command, stopped, None) == "same bits"


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_a_broken_directory_goes_on_or_is_refused(command: Command, stopped: tuple[Path, str], seed: int) -> None:
    resumed(command, stopped, Random(seed))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_broken_directories(command: Command, stopped: tuple[Path, str], fuzz_report) -> None:
    with fuzz_report("`fedsim resume`, files of a run directory") as counts:
        for seed in seeds(300):
            counts[resumed(command, stopped, Random(seed))] += 1
    assert counts["same bits"]
