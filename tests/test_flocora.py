"""FLoCoRA as a scenario, from images to the exported adapter, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fedsim.build.load import load_scenario
from fedsim.build.prepare import make_job, prepare
from fedsim.codecs import pipeline
from fedsim.core import seeds
from fedsim.core.errors import ScenarioError
from fedsim.core.events import RoundRow, Served
from fedsim.engine.driver import Driver
from fedsim.engine.pool import InlinePool

DIGITS = Path(__file__).resolve().parents[1] / "scenarios" / "flocora_digits.yaml"


def test_digits_are_learned_with_low_rank_int8_messages_in_both_directions(tmp_path: Path) -> None:
    scenario = load_scenario(DIGITS)
    material = prepare(scenario)
    job = make_job(scenario, material, "nowhere")
    events = list(Driver(job.plan, InlinePool(job.make_client(), job.actors)).run())
    rounds = [event for event in events if isinstance(event, RoundRow)]
    assert rounds[0].metrics["accuracy"] < 0.2
    assert rounds[-1].metrics["accuracy"] > 0.6
    served = next(event for event in events if isinstance(event, Served))
    message = pipeline([("affine", {"bits": 8})]).compress(served.adapter.tensors, {}, seeds.generator(0, "test"))[0]
    assert {row.bytes_up for row in rounds[1:]} == {row.bytes_down for row in rounds[1:]} == {4 * message.num_bytes}
    material.model.export(tmp_path, served.adapter, served.frozen, scenario.lora)
    assert load_file(tmp_path / "adapter_model.safetensors").keys() == served.adapter.tensors.keys()
    assert json.loads((tmp_path / "adapter_config.json").read_text())["model"] == material.model.config.model_dump(
        mode="json"
    )


def test_a_network_without_pairs_refuses_a_method_that_stacks_them() -> None:
    with pytest.raises(ScenarioError, match=r"works on LoRA factors.*set train: lora"):
        load_scenario(DIGITS, ["model.train=full", "strategy={kind: flora}"])
