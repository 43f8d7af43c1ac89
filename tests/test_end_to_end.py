"""Whole runs on the shipped model: the place does not matter, looking changes nothing, FinLoRA's block acts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import fedsim

SCENARIO = """
seed: 3
num_rounds: 2
data: {kind: loan_book, num_banks: 4, rows_per_bank: 60}
partition: {kind: by_column, column: bank, num_banks: 4}
model: {kind: embedded, quant_bits: 4}
lora: {r: 4, target_modules: [q_proj, v_proj]}
train: {local_steps: 2, batch_size: 8, optimizer: sgd, lr: 1.0}
privacy: {kind: dp_sgd, noise_multiplier: 1.0, dp_delta: 1e-4}
evaluate: {every: 2, metrics: [auc, nll]}
"""

FINLORA = """
federated_learning: true
use_dp_lora: true
dp_epsilon: 1.0
dp_delta: 1e-5
noise_multiplier: 1.0
max_grad_norm: 1.0
lora_r: 8
lora_alpha: 16
quant_bits: 8
num_clients: 4
client_fraction: 1.0
num_rounds: 10
data: {kind: loan_book, num_banks: 4, rows_per_bank: 400}
model: {kind: embedded}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SCENARIO)
    return path


def adapter_hash(run: fedsim.Run) -> str:
    return hashlib.sha256((run.run_dir / "adapters" / "global" / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.fixture
def inline(scenario: Path, tmp_path: Path) -> fedsim.Run:
    return fedsim.run(scenario, out=tmp_path / "inline", inline=True)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("num_actors", [1, 2])
def test_inline_one_actor_and_two_actors_give_the_same_adapter(scenario, inline, tmp_path, num_actors) -> None:
    on_ray = fedsim.run(scenario, [f"resources.num_actors={num_actors}"], out=tmp_path / "ray")
    assert adapter_hash(on_ray) == adapter_hash(inline)
    assert on_ray.metrics == inline.metrics


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_rows_held_above_frozen_layers_give_the_same_adapter_on_any_number_of_actors(scenario, tmp_path) -> None:
    top = ["lora.layers_to_transform=[2]", "train.local_steps=4"]  # every row is drawn more than once
    inline = fedsim.run(scenario, top, out=tmp_path / "inline", inline=True)
    for num_actors in (1, 2):
        on_ray = fedsim.run(scenario, [*top, f"resources.num_actors={num_actors}"], out=tmp_path / f"ray{num_actors}")
        assert adapter_hash(on_ray) == adapter_hash(inline)
        assert on_ray.metrics == inline.metrics


def test_an_evaluation_in_between_changes_no_bit(scenario, inline, tmp_path) -> None:
    looked = fedsim.run(scenario, ["evaluate.every=1"], out=tmp_path / "looked", inline=True)
    assert adapter_hash(looked) == adapter_hash(inline)


def test_results_are_tables(inline) -> None:
    assert list(inline.rounds["round"]) == [0, 1, 2]
    assert len(inline.banks) == 3 * 4
    last = inline.banks[inline.banks["round"] == 2]
    assert (last["epsilon"] > 0).all()
    assert inline.summary["epsilon"] == pytest.approx(last["epsilon"].max())
    assert set(inline.metrics) == {"auc", "nll"}


def test_finlora_s_block_stops_when_its_epsilon_is_spent(tmp_path) -> None:
    path = tmp_path / "finlora.yaml"
    path.write_text(FINLORA)
    run = fedsim.run(path, ["train.local_steps=2", "train.batch_size=8"], out=tmp_path / "run", inline=True)
    assert run.summary["status"] == "budget_exhausted"
    assert run.summary["rounds"] < 10
    assert all(bank["epsilon"] <= 1.0 for bank in run.summary["banks"].values())
    assert all(bank["spend"]["noise_multiplier"] == 1.0 for bank in run.summary["banks"].values())


def test_twelve_masked_banks_of_which_one_drops_out(tmp_path) -> None:
    path = Path(__file__).parents[1] / "scenarios" / "secure_aggregation.yaml"
    small = ["data.rows_per_bank=30", "train.local_steps=1", "num_rounds=1", "evaluate.max_rows=20"]
    run = fedsim.run(path, small, out=tmp_path / "run", inline=True)
    banks = run.banks[run.banks["round"] == 1]
    stayed, gone = banks[banks["participated"]], banks[~banks["participated"]]
    values, neighbours = 12288, 8
    assert (len(stayed), len(gone)) == (11, 1)
    assert set(stayed["bytes_up"]) == {64 + neighbours * (2 + 82) + values * 24 // 8 + (neighbours + 1) * (2 + 33)}
    assert set(gone["bytes_up"]) == {64 + neighbours * (2 + 82)}
    assert (gone["epsilon"] == 0).all()
    assert (stayed["epsilon"] > 0).all()
    assert run.summary["bytes_up"] == banks["bytes_up"].sum()
