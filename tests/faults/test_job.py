"""``ray job submit`` on a local head with token authentication: run, watch, stop."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.head import ROOT, Head, head

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

SCENARIO = "scenarios/methods/fedavg.yaml"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Head]:
    with head() as one:
        yield one


def call(cluster: Head, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**cluster.environment, **environment}
    return subprocess.run(command, env=given, cwd=ROOT, capture_output=True, text=True, timeout=300)


def submit(cluster: Head, job: str, out: Path, *options: str) -> None:
    entrypoint = ["fedsim", "run", SCENARIO, "--out", str(out), "--check-nodes", *options]
    excludes = json.dumps({"excludes": ["/*", "!/.", "!/scenarios"]})
    where = ["--address", cluster.address, "--working-dir", ".", "--runtime-env-json", excludes]
    done = call(cluster, "ray", "job", "submit", "--no-wait", "--submission-id", job, *where, "--", *entrypoint)
    assert done.returncode == 0, done.stderr


def watch(cluster: Head, job: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return call(cluster, "fedsim", "watch", job, "--address", cluster.address, **environment)


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
    rounds = tmp_path / "run" / "rounds.jsonl"
    until = time.monotonic() + 120
    while not rounds.exists() or rounds.read_text().count("\n") < 3:
        assert time.monotonic() < until
        time.sleep(0.2)
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
