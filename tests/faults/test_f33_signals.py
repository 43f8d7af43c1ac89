"""F33: Ctrl-C. F34: twice. F35: SIGTERM. The whole command on a Ray of its own; afterwards it is resumed.

F8: the machine is lost with all that runs on it, Ray's head included. ``ray job stop`` is in ``test_job``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from fedsim.engine import leftovers
from tests.engine import fakes

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
SCENARIO = """
seed: 3
num_rounds: 12
data: {kind: loan_book, num_banks: 4, rows_per_bank: 60}
partition: {kind: by_column, column: bank, num_banks: 4}
model: {kind: embedded}
lora: {r: 4, target_modules: [q_proj, v_proj]}
train: {local_steps: 2, batch_size: 8, optimizer: sgd, lr: 1.0}
privacy: {kind: dp_sgd, noise_multiplier: 1.0, dp_delta: 1e-4}
evaluate: {every: 12}
resources: {num_actors: 1}
"""


def fedsim(*arguments: str) -> list[str]:
    """A shell's background jobs start with SIGINT ignored."""
    begin = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    return [sys.executable, "-c", f"{begin}from fedsim.cli import main; main()", *arguments]


def environment(home: Path) -> dict[str, str]:
    found = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return found | {"HOME": str(home), "PYTHONPATH": str(ROOT)}


def adapter_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "adapters" / "global" / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenario") / "small.yaml"
    path.write_text(SCENARIO)
    return path


@pytest.fixture(scope="module")
def reference(scenario: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("home")
    command = fedsim("run", str(scenario), "--inline", "--quiet", "--out", str(folder / "run"))
    subprocess.run(command, env=environment(folder), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return adapter_hash(folder / "run")


def alive(process: psutil.Process) -> bool:
    """An orphan that has ended is a zombie where nobody asks for it, as in some containers."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def of_session(pid: int) -> list[psutil.Process]:
    """Every process that carries the mark of the command with this id, whoever is its parent."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != pid and process.environ().get(leftovers.MARK, "").startswith(f"{pid}@"):
                found.append(process)
    return found


def require_nothing_left(pid: int) -> None:
    fakes.wait_until(lambda: not any(alive(one) for one in of_session(pid)), timeout_s=5)
    assert not list(Path(tempfile.gettempdir()).glob(f"{leftovers.FOLDER}{pid}-*"))


@pytest.mark.parametrize(
    ("signals", "code", "within_s"),
    [((signal.SIGINT,), 130, 10.0), ((signal.SIGINT, signal.SIGINT), 130, 5.0), ((signal.SIGTERM,), 143, 2.9)],
    ids=["ctrl-c", "ctrl-c twice", "sigterm"],
)
def test_it_ends_in_time_leaves_no_process_and_goes_on_to_the_same_bits(
    scenario: Path, reference: str, tmp_path: Path, signals: Sequence[int], code: int, within_s: float
) -> None:
    out = tmp_path / "run"
    command = fedsim("run", str(scenario), "--out", str(out))
    with subprocess.Popen(
        command, env=environment(tmp_path), cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE, text=True
    ) as run:
        rounds = out / "rounds.jsonl"
        fakes.wait_until(lambda: rounds.is_file() and rounds.read_text().count("\n") >= 3, timeout_s=300)
        start = time.monotonic()
        for number in signals:
            os.killpg(run.pid, number)
            time.sleep(0.2)
        shown, _ = run.communicate(timeout=60)
        seconds = time.monotonic() - start
    assert run.returncode == code
    assert seconds < within_s + 2, "of a machine with other things to do"
    assert f"fedsim resume {out}" in shown or len(signals) == 2
    require_nothing_left(run.pid)
    assert not (out / "adapters").exists()
    resumed = subprocess.run(
        fedsim("resume", str(out), "--inline", "--quiet"),
        env=environment(tmp_path),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    assert resumed.returncode == 0
    assert adapter_hash(out) == reference


def test_f34_ten_times(scenario: Path, tmp_path: Path) -> None:
    """Ray's helpers, which nobody is the parent of by then, were left now and then."""
    for number in range(10):
        out = tmp_path / str(number)
        with subprocess.Popen(
            fedsim("run", str(scenario), "--out", str(out), "--quiet"),
            env=environment(tmp_path),
            cwd=ROOT,
            start_new_session=True,
        ) as run:
            fakes.wait_until(lambda: (out / "HEAD").is_file(), timeout_s=300)  # noqa: B023
            assert len(of_session(run.pid)) > 4, "control: Ray, its agents and the actors"
            for _ in range(2):
                os.killpg(run.pid, signal.SIGINT)
                time.sleep(0.02 * number)
            run.wait(timeout=60)
        assert run.returncode == 130
        require_nothing_left(run.pid)


def test_f8_nothing_is_needed_of_a_ray_that_is_gone(scenario: Path, reference: str, tmp_path: Path) -> None:
    """Every process at once; another Ray goes on."""
    out = tmp_path / "run"
    command = fedsim("run", str(scenario), "--out", str(out), "--quiet")
    with subprocess.Popen(command, env=environment(tmp_path), cwd=ROOT, start_new_session=True) as run:
        fakes.wait_until(lambda: (out / "HEAD").is_file() and committed(out) >= 2, timeout_s=300)
        this = psutil.Process(run.pid)
        family = [this, *this.children(recursive=True)]
        assert {"gcs_server", "raylet"} <= {one.name() for one in family}
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    assert committed(out) < 12
    resumed = subprocess.run(fedsim("resume", str(out), "--quiet"), env=environment(tmp_path), cwd=ROOT)
    assert resumed.returncode == 0
    assert adapter_hash(out) == reference


def committed(out: Path) -> int:
    return int(json.loads((out / "HEAD").read_text())["round"])
