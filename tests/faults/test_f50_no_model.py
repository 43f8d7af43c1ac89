"""F50: a base model that is missing or damaged, or a network that is. Exit code 3, soon, and nothing is downloaded.

Nothing is trained, so there is no hash to compare and nothing to charge: no run directory is left.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from fedsim.models import libraries
from tests import tiny
from tests.calling import Answer, Command

SCENARIO = """
num_rounds: 1
data: {{kind: loan_book, num_banks: 2, rows_per_bank: 20}}
partition: {{kind: by_column, column: bank}}
model: {{kind: hf, id: {model}}}
lora: {{r: 2, target_modules: [q_proj]}}
train: {{local_steps: 1, batch_size: 2}}
"""


class Dialled(Exception):
    """Somebody has opened a connection."""


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``answer(model)``: what ``fedsim run`` says; a connection ends the test."""
    command = Command(monkeypatch)
    tiny.save_llama(tmp_path / "llama")

    def dial(*_: object) -> None:
        raise Dialled

    monkeypatch.setattr(socket.socket, "connect", dial)

    def run(model: str) -> Answer:
        (tmp_path / "s.yaml").write_text(SCENARIO.format(model=model))
        start = time.process_time()
        told = command("run", str(tmp_path / "s.yaml"), "--inline", "--out", str(tmp_path / "run"))
        if told.code:
            assert time.process_time() - start < 5  # of work: waiting for a network would show as a connection
            assert not (tmp_path / "run").exists()
        return told

    return run


def test_a_folder_that_is_not_there(answer, tmp_path: Path) -> None:
    told = answer(f"{tmp_path}/nowhere")
    assert told.code == 3
    assert f"no model folder '{tmp_path}/nowhere'" in told.err
    assert answer(f"{tmp_path}/llama").code == 0, "control"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_that_is_missing_or_cut_short(answer, tmp_path: Path, name: str) -> None:
    file = tmp_path / "llama" / name
    body = file.read_bytes()
    file.write_bytes(body[: len(body) // 2])
    assert answer(f"{tmp_path}/llama").code == 3
    file.unlink()
    assert answer(f"{tmp_path}/llama").code == 3


def test_a_model_of_the_hub_without_a_network(answer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    told = answer("nobody/nothing")
    assert told.code == 3
    assert "model 'nobody/nothing' is not on this machine, and HF_HUB_OFFLINE is set; give a folder" in told.err

    monkeypatch.setattr(libraries, "require_hub", lambda *_: None)  # control
    asked = []
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: asked.append(1) or 1 / 0)
    assert answer("nobody/nothing").code != 0
    assert asked
