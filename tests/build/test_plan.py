"""``fedsim plan``: the numbers of the run itself, before it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedsim.build.plan import as_json, as_text, plan
from fedsim.core.messages import Spend
from fedsim.privacy.accounting import Bound, rdp_epsilon

FILE = """
num_rounds: 5
data: {kind: loan_book, num_banks: 3, rows_per_bank: 100}
partition: {kind: by_column, column: bank, num_banks: 3}
model: {kind: embedded}
train: {local_steps: 4, batch_size: 8}
"""


def planned(folder: Path, privacy: str) -> dict:
    path = folder / "f.yaml"
    path.write_text(f"{FILE}privacy: {privacy}\n")
    return dict(plan(path))


def test_each_bank_ends_where_its_own_steps_take_it(tmp_path: Path) -> None:
    told = planned(tmp_path, "{kind: dp_sgd, noise_multiplier: 1.5, dp_delta: 1e-5, dp_epsilon: 4}")
    assert len(told["banks"]) == 3
    for bank in told["banks"].values():
        spend = Spend(1.5, 8 / bank["num_train"], 20)
        assert bank["epsilon"] == pytest.approx(rdp_epsilon([spend], 1e-5))
        assert bank["epsilon_pld"] <= bank["epsilon"]
        rounds = bank["rounds_bought"]
        assert rdp_epsilon([Spend(1.5, spend.sample_rate, 4 * rounds)], 1e-5) <= 4
        assert rounds == 5 or rdp_epsilon([Spend(1.5, spend.sample_rate, 4 * (rounds + 1))], 1e-5) > 4
    assert told["epsilon"] == max(bank["epsilon"] for bank in told["banks"].values())
    text = as_text(told)
    assert "as its weight in the mean" in text
    assert "early stopping" in text
    assert json.loads(as_json(told))["mechanism"] == "dp_sgd"


def test_without_a_mechanism_nothing_is_promised(tmp_path: Path) -> None:
    told = planned(tmp_path, "{kind: none}")
    assert told["epsilon"] is None
    assert "No differential privacy" in as_text(told)


def test_a_trusted_server_does_not_weigh_by_rows(tmp_path: Path) -> None:
    told = planned(tmp_path, "{kind: dp_bank_central, dp_epsilon: 8, dp_delta: 1e-5}")
    assert {bank["releases_per_round"] for bank in told["banks"].values()} == {1}
    assert "as its weight in the mean" not in as_text(told)
    assert told["epsilon"] <= 8


def test_a_third_accountant_is_asked_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Bound(5.0, "prv"), Bound(9.0, "rdp")])
    monkeypatch.setattr("fedsim.build.plan.prv_epsilon", lambda spends, delta: next(answers))
    path = tmp_path / "f.yaml"
    path.write_text(f"{FILE}privacy: {{kind: dp_sgd, noise_multiplier: 1.5, dp_delta: 1e-5}}\n")
    told = plan(path, (), cross_check=True)
    check = told["cross_check"]
    assert check["rdp"] == told["epsilon"] == told["banks"][check["bank"]]["epsilon"]
    assert "PRV 5.00" in as_text(told)
    assert "PRV no answer in time" in as_text(plan(path, (), cross_check=True))
    assert "cross_check" not in plan(path)
