"""DP-FTRL that is killed inside a pass goes on with the noise of its tree, and charges what it would have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedsim.build.prepare import Job, Material, make_job
from fedsim.core.errors import BudgetError
from fedsim.core.events import BankDone, Finished, Served
from fedsim.core.messages import Spend
from fedsim.core.rows import BankRows
from fedsim.core.scenario import Scenario
from fedsim.engine.driver import Driver
from fedsim.engine.pool import InlinePool
from fedsim.privacy.accounting import rdp_epsilon
from fedsim.privacy.dp_ftrl import TREE
from fedsim.privacy.ledger import Ledger
from fedsim.records.wal import Log
from tests import smoke, tiny
from tests.faults import toys

DELTA = 1e-2
SCENARIO: dict[str, Any] = {
    "num_rounds": 6,  # two passes of four rounds, the second cut short; a bank has a leaf in each
    "client_fraction": 0.25,
    "data": {"kind": "loan_book"},
    "model": {"kind": "embedded"},
    "lora": {"r": 2, "target_modules": ["q_proj"]},
    "train": {"local_steps": 2, "sample_rate": 0.5, "optimizer": "sgd", "lr": 0.5},
    "privacy": {"kind": "dp_ftrl", "noise_multiplier": 2.0, "dp_delta": DELTA, "max_update_norm": 0.5},
    "evaluate": {"every": 6},
}
BANKS = tuple(BankRows(f"bank-{k}", np.arange(8 * k, 8 * k + 8), np.arange(32, 36)) for k in range(4))


def job(folder: Path) -> Job:
    scenario = Scenario.model_validate(SCENARIO)
    corpus, model = tiny.corpus(), smoke.LoadedOnce(smoke.config("causal_lm"))
    made = make_job(scenario, Material(corpus, BANKS, model, model.encode(corpus)), str(folder))
    return replace(made, plan=replace(made.plan, store=toys.store(folder)))


def live(folder: Path, answers: int = 100) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(the final adapter, the summary) of a life of the run; nothing where it is killed after so many answers."""
    one, tensors, summary = job(folder), {}, {}
    for event in Driver(one.plan, InlinePool(one.make_client(), one.actors)).run():
        answers -= isinstance(event, BankDone)
        if not answers:
            break
        if isinstance(event, Served):
            tensors = dict(event.adapter.tensors)
        elif isinstance(event, Finished):
            summary = dict(event.summary)
    return tensors, summary


def paid(folder: Path) -> dict[str, list[int]]:
    ledger = Ledger(DELTA, log=Log(folder / "ledger.wal", BudgetError))
    return {bank.name: ledger.rounds(bank.name) for bank in BANKS}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole")
    return (folder, *live(folder))


@pytest.mark.parametrize("answers", [2, 3, 5])  # the second and third leaf of the first tree, the first of the second
def test_a_killed_pass_comes_to_the_same_bits_at_the_same_epsilon(tmp_path: Path, whole, answers: int) -> None:
    reference, expected, ended = whole
    live(tmp_path, answers)
    before = paid(tmp_path)
    assert sum(map(len, before.values())) == answers, "the round of the kill is charged before it is sent"
    tensors, summary = live(tmp_path)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())
    assert paid(tmp_path) == paid(reference)
    assert summary["epsilon"] == ended["epsilon"]


def test_a_bank_is_charged_once_a_pass_for_all_nodes_of_its_leaf(whole) -> None:
    folder, _, summary = whole
    rounds = paid(folder)
    assert sorted(number for banks in rounds.values() for number in banks) == [1, 2, 3, 4, 5, 6]
    assert sorted(map(len, rounds.values())) == [1, 1, 2, 2]
    both = rdp_epsilon([Spend(2.0 / 3**0.5, 1.0, 2)], DELTA)  # four leaves: a leaf is in three nodes
    assert summary["epsilon"] == pytest.approx(both)


def test_control_another_tree_after_the_kill_would_be_noticed(tmp_path: Path, whole, monkeypatch) -> None:
    from fedsim.privacy.dp_ftrl import TreeCurator

    live(tmp_path, 3)
    release = TreeCurator.release

    def forgetful(self, exchanges, blank, slots):
        return release(self, exchanges, blank, {**slots, TREE: torch.tensor(1)})

    monkeypatch.setattr(TreeCurator, "release", forgetful)
    tensors, _ = live(tmp_path)
    assert any(not torch.equal(tensor, whole[1][name]) for name, tensor in tensors.items())
