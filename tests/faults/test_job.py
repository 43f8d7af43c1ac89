"""``ray job submit`` on a local head with token authentication: run, watch, stop, resume."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.head import ROOT, Head, head

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

SCENARIO = "scenarios/methods/fedavg.yaml"
ADAPTER = "adapters/global/adapter_model.safetensors"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Head]:
    with head() as one:
        yield one


def call(cluster: Head, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**cluster.environment, **environment}
    return subprocess.run(command, env=given, cwd=ROOT, capture_output=True, text=True, timeout=500)


def submit(cluster: Head, job: str, out: Path, *options: str) -> None:
    entrypoint = ["fedsim", "run", SCENARIO, "--out", str(out), "--check-nodes", *options]
    excludes = json.dumps({"excludes": ["/*", "!/.", "!/scenarios"]})
    where = ["--address", cluster.address, "--working-dir", ".", "--runtime-env-json", excludes]
    done = call(cluster, "ray", "job", "submit", "--no-wait", "--submission-id", job, *where, "--", *entrypoint)
    assert done.returncode == 0, done.stderr


def watch(cluster: Head, job: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return call(cluster, "fedsim", "watch", job, "--address", cluster.address, **environment)


def wait_for_rounds(run: Path, count: int) -> None:
    rounds, until = run / "rounds.jsonl", time.monotonic() + 250
    while not rounds.exists() or rounds.read_text().count("\n") < count:
        assert time.monotonic() < until
        time.sleep(0.2)


def test_run_and_watch(cluster: Head, tmp_path: Path) -> None:
    submit(cluster, "good", tmp_path / "run")
    done = watch(cluster, "good")
    assert done.returncode == 0, done.stderr
    assert "all banks" in done.stdout
    assert done.stdout.splitlines()[-1] == "good succeeded"
    assert watch(cluster, str(tmp_path / "run")).returncode == 0


def test_the_command_s_exit_code_is_the_watcher_s(cluster: Head, tmp_path: Path) -> None:
    submit(cluster, "bad", tmp_path / "run", "--set", "num_rounds=0")
    done = watch(cluster, "bad")
    assert done.returncode == 2
    assert "--set #1: num_rounds: must be >= 1 (got 0)" in done.stdout
    assert done.stdout.splitlines()[-1] == "bad: failed, exit code 2"


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_nobody_without_the_token(cluster: Head, token: str) -> None:
    done = watch(cluster, "good", RAY_AUTH_TOKEN=token)
    assert done.returncode == 4
    assert "takes nobody without its token; set RAY_AUTH_MODE=token" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_job(cluster: Head) -> None:
    done = watch(cluster, "nobody")
    assert (done.returncode, done.stdout) == (4, "")
    assert "Job nobody does not exist." in done.stderr


def test_stop(cluster: Head, tmp_path: Path) -> None:
    submit(cluster, "long", tmp_path / "run", "--set", "num_rounds=5000")
    wait_for_rounds(tmp_path / "run", 3)
    assert call(cluster, "fedsim", "watch", "--once", str(tmp_path / "run")).returncode == 1  # it goes on
    start = time.monotonic()
    done = call(cluster, "ray", "job", "stop", "--address", cluster.address, "long")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 30
    watched = watch(cluster, "long")
    assert watched.returncode == 143
    assert watched.stdout.splitlines()[-1] == "long was stopped"
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"
    time.sleep(3)
    left = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(p.info["cmdline"])]
    assert left == []


def test_a_stopped_job_goes_on_as_its_next_attempt(cluster: Head, tmp_path: Path) -> None:
    """``fedsim submit --run``, stopped and sent again: the bits of a run that was never stopped."""

    changes = ["--set", "num_rounds=40", "--set", "evaluate.every=10"]

    def send(*options: str) -> subprocess.CompletedProcess[str]:
        where = ["--address", cluster.address, "--out", str(tmp_path / "run")]
        return call(cluster, "fedsim", "submit", SCENARIO, *where, *changes, "--run", *options)

    sent = send()
    assert sent.returncode == 0, sent.stderr
    first = sent.stdout.strip()
    again = send()
    assert again.returncode == 4
    assert "already exists" in again.stderr
    wait_for_rounds(tmp_path / "run", 3)
    assert call(cluster, "ray", "job", "stop", "--address", cluster.address, first).returncode == 0
    assert watch(cluster, first).returncode == 143
    second = send("--attempt", "2").stdout.strip()
    assert second == f"{first}-2"
    done = watch(cluster, second)
    assert done.returncode == 0, done.stdout
    assert "Resumed after round" in done.stdout
    whole = call(cluster, "fedsim", "run", SCENARIO, "--inline", "--out", str(tmp_path / "whole"), *changes)
    assert whole.returncode == 0, whole.stderr
    adapters = [(tmp_path / name / ADAPTER).read_bytes() for name in ("run", "whole")]
    assert adapters[0] == adapters[1]
