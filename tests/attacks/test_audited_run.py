"""An audited run from its file: shadow runs, the summary's ``audit``, and nothing of it in the run's own numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedsim.cli import app
from tests import tiny

FILE = """
name: audited
num_rounds: 2
seed: 3
data: {{kind: loan_book, num_banks: 2, rows_per_bank: 60}}
partition: {{kind: by_column, column: bank}}
model: {{kind: hf, id: {model}, max_length: 32}}
lora: {{r: 2, target_modules: [q_proj]}}
train: {{local_steps: 2, sample_rate: 0.5, optimizer: sgd, lr: 0.5}}
evaluate: {{every: 2, max_rows: 8}}
privacy: {{kind: dp_sgd, noise_multiplier: 2.0, dp_delta: 1e-3}}
audit: {{canaries: 6, members: 4, shadow_runs: 2, inversions: 2}}
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """(the last line of an audited ``fedsim run``, its directory)."""
    folder = tmp_path_factory.mktemp("audited")
    (folder / "f.yaml").write_text(FILE.format(model=tiny.save_llama(folder / "model")))
    told = CliRunner().invoke(
        app, ["run", str(folder / "f.yaml"), "--inline", "--out", str(folder / "out"), "--format", "json"]
    )
    assert told.exit_code == 0, told.output
    return json.loads(told.stdout.splitlines()[-1]), folder / "out"


def test_the_summary_holds_the_audit(ended) -> None:
    summary, folder = ended
    audit = summary["audit"]
    assert (audit["canaries"], audit["rounds"]) == (12, 2)
    assert 0 <= audit["epsilon_lower"] <= summary["epsilon_pld"]
    assert 0 <= audit["auc"] <= 1
    assert 0 < audit["auc_se"] < 0.4
    assert json.loads((folder / "summary.json").read_text())["audit"] == audit


def test_shadow_runs_give_lira_and_are_no_rounds_of_the_run(ended) -> None:
    summary, folder = ended
    everyone = summary["audit"]["membership"]["all banks"]
    assert {"loss_auc", "lira_auc"} <= everyone.keys()
    assert summary["rounds"] == 2
    assert len((folder / "rounds.jsonl").read_text().splitlines()) == 3  # before training, and two
    for bank in summary["banks"].values():
        assert bank["spend"]["num_steps"] == 4, "shadow runs are the attacker's: they charge nobody"


def test_words_are_guessed_of_rows_of_every_bank(ended) -> None:
    told = ended[0]["audit"]["inversion"]
    assert told["rows"] == 4
    assert 0 <= told["recovered"] <= 1
    assert 0.2 < told["auc"] < 0.8, "clipped and noised"
