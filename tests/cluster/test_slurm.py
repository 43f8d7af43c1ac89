"""The Slurm script, with fake commands: its exit code is the run's, also where `ray symmetric-run` says 0."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "cluster" / "slurm" / "fedsim.sbatch"

# $1 of a fake is what it shall do; everything else is what the script gives it.
FAKES = {
    "scontrol": 'printf "node1\\nnode2\\nnode3\\n"',
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "ray": """
[[ $RAY_AUTH_MODE == token && ${#RAY_AUTH_TOKEN} == 64 ]] || exit 99
printf '%s\\n' "$@" > "$CALLS"
[[ $RAY_FAILS ]] && { echo "Failed to start Ray" >&2; exit 0; }
while [[ $1 != -- ]]; do shift; done; shift; exec "$@"
""",
    "fedsim": """
[[ $RAY_ADDRESS == node1:6379 ]] || exit 98
printf '%s\\n' "$@" >> "$CALLS"
[[ $LEAVES ]] && { mkdir -p "$OUT"; printf '%s' "$LEAVES" > "$OUT/summary.json"; }
exit "$CODE"
""",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the fake commands."""
    (tmp_path / "bin").mkdir()
    for name, body in FAKES.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    return tmp_path


def submit(folder: Path, leaves: str = "", code: int = 0, ray_fails: bool = False) -> subprocess.CompletedProcess[str]:
    out = folder / "run"
    environment = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node[1-3]",
        "SLURM_JOB_NUM_NODES": "3",
        "SLURM_CPUS_PER_TASK": "8",
        "CALLS": str(folder / "calls"),
        "OUT": str(out),
        "LEAVES": leaves,
        "CODE": str(code),
        "RAY_FAILS": "1" if ray_fails else "",
    }
    command = ["bash", str(SCRIPT), "/shared/scenario.yaml", str(out)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_script_is_bash() -> None:
    assert subprocess.run(["bash", "-n", str(SCRIPT)]).returncode == 0
    assert os.access(SCRIPT, os.X_OK)


def test_a_run_that_ends_gives_0_and_gets_its_arguments(folder: Path) -> None:
    done = submit(folder, leaves='{"status": "completed"}')
    assert (done.returncode, done.stderr) == (0, "")
    calls = (folder / "calls").read_text().splitlines()
    assert calls[:5] == ["symmetric-run", "--address", "node1:6379", "--min-nodes", "3"]
    run = calls[len(calls) - calls[::-1].index("run") - 1 :]
    options = ["--out", str(folder / "run"), "--resume", "auto", "--steal-lock", "--check-nodes"]
    assert run == ["run", "/shared/scenario.yaml", *options]


def test_a_spent_budget_is_an_end(folder: Path) -> None:
    assert submit(folder, leaves='{"status": "budget_exhausted"}').returncode == 0


@pytest.mark.parametrize("code", [2, 3, 7, 143])
def test_the_run_s_own_code_is_kept(folder: Path, code: int) -> None:
    assert submit(folder, leaves='{"status": "failed"}', code=code).returncode == code


@pytest.mark.parametrize(
    ("leaves", "said"),
    [
        ("", "the run left no summary"),
        ('{"status": "interrupted"}', "the run ended as 'interrupted'"),
        ("{", "the run left no summary"),
        ("{}", "the run left no summary"),
    ],
)
def test_0_without_a_completed_run_is_a_failure(folder: Path, leaves: str, said: str) -> None:
    done = submit(folder, leaves=leaves)
    assert done.returncode == 4
    assert said in done.stderr


def test_ray_that_does_not_start_is_a_failure(folder: Path) -> None:
    done = submit(folder, ray_fails=True)
    assert done.returncode == 4
    assert "the run left no summary" in done.stderr


def test_paths_must_be_absolute(folder: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "SLURM_JOB_NODELIST": "a", "SLURM_JOB_NUM_NODES": "1"}
    done = subprocess.run(["bash", str(SCRIPT), "s.yaml", "out"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "must be absolute paths" in done.stderr
