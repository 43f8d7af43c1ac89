"""What is told of bytes and memory before a run is what the run then moves and holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim.build.plan import as_text, plan
from fedsim.build.run import run
from fedsim.core.events import RoundRow
from fedsim.core.sections import Lora
from fedsim.models import MODELS
from tests import tiny

FILE = """
num_rounds: 3
data: {{kind: loan_book, num_banks: 4, rows_per_bank: 20}}
partition: {{kind: by_column, column: bank}}
model: {model}
lora: {{r: 4, target_modules: [q_proj, v_proj]}}
train: {{local_steps: 3, sample_rate: 0.2, optimizer: sgd, lr: 0.1, max_rows: 8}}
evaluate: {{every: 3, max_rows: 8}}
{more}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"{{kind: hf, id: {tiny.save_llama(tmp_path_factory.mktemp('model'))}, max_length: 32}}"


def written(folder: Path, model: str, more: str = "") -> Path:
    path = folder / "f.yaml"
    path.write_text(FILE.format(model=model, more=more))
    return path


@pytest.mark.parametrize(
    "more",
    [
        "strategy: {kind: fedavg}",
        "strategy: {kind: ffa_lora}\nupload: [{kind: randk, density: 0.5}, {kind: affine, bits: 4}]",
        "strategy: {kind: flora}",
        "strategy: {kind: scaffold}",
        "strategy: {kind: rolora}\nprivacy: {kind: dp_sgd, noise_multiplier: 1, dp_delta: 1e-3}",
        "client_fraction: 0.5\nprivacy: {kind: dp_bank_central, noise_multiplier: 1, dp_delta: 1e-3}",
        "secure_aggregation: {kind: secagg, dropout: 0.2}",
    ],
)
def test_the_bytes_are_those_of_the_run(tmp_path: Path, model: str, more: str) -> None:
    path = written(tmp_path, model, more)
    told = plan(path)["wire"]
    rows = [event for event in run(path, out=tmp_path / "out", inline=True) if isinstance(event, RoundRow)]
    assert told["exact"]
    assert told["rounds"] == [
        {"round": row.round, "bytes_up": row.bytes_up, "bytes_down": row.bytes_down} for row in rows[1:3]
    ]
    assert told["rounds"][0]["bytes_up"] > 0


@pytest.mark.parametrize(
    "more", ["strategy: {kind: flasc, density_down: 0.25, density_up: 0.25}", "upload: [{kind: topk, density: 0.1}]"]
)
def test_bytes_that_depend_on_values_are_told_so(tmp_path: Path, model: str, more: str) -> None:
    told = plan(written(tmp_path, model, more))
    assert not told["wire"]["exact"]
    assert "so a run may differ" in as_text(told)


def test_memory_is_that_of_weights_and_of_one_gradient_per_row_or_bank(tmp_path: Path, model: str) -> None:
    wire = plan(written(tmp_path, model))["wire"]
    values = 2 * 4 * ((64 + 64) + (64 + 32))  # two layers of q (64 x 64) and v (32 x 64) at rank 4
    assert wire["gradient_bytes"] == 4 * values * 4  # four banks
    private = plan(written(tmp_path, model, "privacy: {kind: dp_sgd, noise_multiplier: 1, dp_delta: 1e-3}"))["wire"]
    assert private["gradient_bytes"] == 4 * values * 8  # max_rows
    text = as_text(plan(written(tmp_path, model)))
    assert "whole run: " in text
    assert "of gradients in an actor" in text


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_weights_take_the_memory_that_is_told(tmp_path: Path, bits: int | None) -> None:
    base = MODELS.create("hf", {"id": str(tiny.save_llama(tmp_path)), "quant_bits": bits})
    lora = Lora(r=4, target_modules=["q_proj"])
    outline, loaded = base.outline(lora, 2), base.load(lora, 2)
    new = loaded.new_adapter(0)
    assert {name: t.shape for name, t in outline.adapter.tensors.items()} == {
        n: t.shape for n, t in new.tensors.items()
    }
    assert (outline.adapter.rank, outline.adapter.scaling) == (new.rank, new.scaling)
    weights = sum(weight.nbytes for weight in loaded.network.parameters())
    scales = outline.weight_bytes - weights
    assert 0 <= scales <= (0.13 * weights if bits else 0)


def test_without_the_model_privacy_is_still_told(tmp_path: Path) -> None:
    told = plan(
        written(tmp_path, "{kind: hf, id: ./nowhere}", "privacy: {kind: dp_sgd, noise_multiplier: 1, dp_delta: 1e-3}")
    )
    assert told["epsilon"] > 0
    assert "bytes and memory: not known" in as_text(told)
