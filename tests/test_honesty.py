"""What README says of safety, each sentence a test: safetensors only, no remote code, no hidden download."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

import fedsim
from tests import tiny
from tests.calling import Command

ROOT = Path(fedsim.__file__).parent
SCENARIO = """\
num_rounds: 1
data: {{kind: table, path: a.csv, text: "{{text}}", label: label, labels: {{good: g, bad: b}}, test: {{fraction: 0.3}}}}
partition: {{kind: iid, num_banks: 2}}
model: {{kind: hf, id: {model}}}
lora: {{r: 2, target_modules: [q_proj]}}
train: {{local_steps: 1, batch_size: 2}}
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """In a folder with data, where every attempt to reach another machine is an error."""
    rows = "".join(f"loan {i},{'good' if i % 3 else 'bad'}\n" for i in range(24))
    (tmp_path / "a.csv").write_text(f"text,label\n{rows}")
    monkeypatch.chdir(tmp_path)

    def refuse(*address: object, **_: object) -> None:
        raise AssertionError(f"somebody called {address}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return Command(monkeypatch)


def test_nothing_is_downloaded_for_a_model_folder(command: Command) -> None:
    tiny.save_llama(Path("llama"))
    Path("s.yaml").write_text(SCENARIO.format(model="llama"))
    assert command("run", "s.yaml", "--inline", "--out", "run").code == 0


def test_a_hub_name_asks_the_hub(command: Command) -> None:
    """The control: the network would have been seen to be used, and only a name in the scenario makes it so."""
    Path("s.yaml").write_text(SCENARIO.format(model="org/base"))
    answer = command("run", "s.yaml", "--inline", "--out", "run")
    assert answer.code == 70
    assert "somebody called" in answer.err


def test_a_model_s_own_code_is_not_run(command: Command) -> None:
    tiny.save_llama(Path("llama"))
    config = Path("llama/config.json")
    config.write_text(
        re.sub(
            r"\{",
            '{"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}, ',
            config.read_text(),
            count=1,
        ).replace('"model_type": "llama"', '"model_type": "evil"')
    )
    Path("llama/evil.py").write_text("open('run-evil', 'w')\n")
    Path("s.yaml").write_text(SCENARIO.format(model="llama"))
    answer = command("run", "s.yaml", "--inline", "--out", "run")
    assert answer.code == 3, answer
    assert not Path("run-evil").exists()


def test_pickled_weights_are_not_opened(command: Command) -> None:
    tiny.save_llama(Path("llama"))
    Path("llama/model.safetensors").rename("llama/pytorch_model.bin")
    Path("s.yaml").write_text(SCENARIO.format(model="llama"))
    answer = command("run", "s.yaml", "--inline", "--out", "run")
    assert answer.code == 3
    assert "has no *.safetensors weights; convert its .bin weights" in answer.err


def test_no_code_of_ours_unpickles_a_file() -> None:
    """Ray pickles between its own processes; no file that somebody else may have written is unpickled."""
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in ROOT.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(
            r"(?<!safetensors\.)torch\.load\(|pickle\.loads?\(|trust_remote_code(?!\": False)|allow_pickle=True", line
        )
    ]
    assert found == []
