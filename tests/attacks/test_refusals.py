"""Audits that could not say anything true are refused at load."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim.build.load import load_scenario
from fedsim.core.errors import ScenarioError

FILE = """
num_rounds: 2
data: {kind: loan_book}
partition: {kind: iid, num_banks: 8}
model: {kind: embedded}
"""
DP = "dp_delta: 1e-5, noise_multiplier: 1.0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"privacy: {{kind: dp_bank_central, {DP}}}", "the epsilon of 'dp_bank_central' is about more than a row"),
        (f"privacy: {{kind: dp_ftrl, {DP}}}", "the epsilon of 'dp_ftrl' is about more than a row"),
        (f"privacy: {{kind: dp_sgd_customer, {DP}}}", "the epsilon of 'dp_sgd_customer' is about more than a row"),
        ("train: {sampling: fixed}", "with train.sampling: fixed neighbours replace one"),
        ("secure_aggregation: {kind: secagg}", "under secure aggregation nobody sees that"),
        ("strategy: {kind: local}", "with strategy 'local' no bank sends anything that could be attacked"),
    ],
)
def test_what_an_audit_cannot_attack(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(f"{FILE}{text}\n")
    load_scenario(path)
    path.write_text(f"{FILE}{text}\naudit: {{canaries: 10}}\n")
    with pytest.raises(ScenarioError, match=message):
        load_scenario(path)


def test_shadow_runs_need_members(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(f"{FILE}audit: {{shadow_runs: 2}}\n")
    with pytest.raises(ScenarioError, match="shadow_runs has an effect only with members"):
        load_scenario(path)
