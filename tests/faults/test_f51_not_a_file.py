"""F51: a pipe, a device, a socket, a folder or a broken link in the place of a file: told, never waited for."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedsim
from fedsim.core import regular
from fedsim.records.lock import acquire, release
from tests.calling import Answer, Command
from tests.faults import toys
from tests.faults.places import KINDS, put

pytestmark = pytest.mark.timeout(30)
MEMORY = 24 << 30  # bytes of address space

NEEDED = ("HEAD", "LOCK", "journal.wal", "ledger.wal", "rounds", "rounds/000003", ".HEAD.tmp", ".LOCK.tmp")
OF_A_ROUND = ("MANIFEST.json", "state.json", "server.safetensors", "links.safetensors", "kept-0000.safetensors")
FILES = (*NEEDED, *(f"rounds/000003/{name}" for name in OF_A_ROUND))
TOLD = ("scenario.yaml", "environment.json", "split.json", "rounds.jsonl", "banks.jsonl", "timeline.jsonl")
TABLES = (*TOLD, "failures.jsonl", "summary.json")
SCENARIO = """\
num_rounds: 1
seed: 5
data: {kind: loan_book, num_banks: 2, rows_per_bank: 30}
partition: {kind: by_column, column: bank}
model: {kind: embedded}
lora: {r: 2, target_modules: [q_proj]}
train: {local_steps: 1, batch_size: 4}
"""


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Memory that runs out before the machine's does."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy's run that was stopped after three of four rounds, and one that was not."""
    folder = tmp_path_factory.mktemp("toy")
    toys.run(toys.plan(folder / "stopped", 3))
    release(acquire(folder / "stopped", steal=True))
    toys.run(toys.plan(folder / "whole", 4))
    return folder


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_or_says_what_is_wrong(toy: Path, tmp_path: Path, kind: str, name: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy / "stopped", run)
    put(kind, run / name)
    toys.gone_on(run, toy / "whole", 4)


def test_a_pipe_would_be_waited_for(toy: Path, tmp_path: Path) -> None:
    """The control: opened as any file is."""
    put("pipe", tmp_path / "HEAD")
    with pytest.raises(OSError, match="not a regular file"):
        regular.read_regular(tmp_path / "HEAD")
    child = os.fork()
    if not child:
        with open(tmp_path / "HEAD", "rb"):
            os._exit(0)
    try:
        with pytest.raises(TimeoutError):
            _wait(child)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def _wait(child: int) -> None:
    import time

    end = time.monotonic() + 0.5
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)


def test_a_file_beyond_all_memory_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "HEAD").open("wb") as file:
        file.truncate(1 << 43)
    with pytest.raises(OSError, match=r"8796093022208 bytes, too large for this machine's memory"):
        regular.read_regular(tmp_path / "HEAD")


# ------------------------------------------------------------------------------------------------------ the commands


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ended")
    (folder / "s.yaml").write_text(SCENARIO)
    fedsim.run(folder / "s.yaml", out=folder / "run", inline=True)
    return folder / "run"


def require_told(answer: Answer) -> None:
    """Done, or one line that says why not."""
    assert answer.code in (0, 2, 3, 6), answer
    assert "internal error" not in answer.err
    assert answer.code in (0,) or answer.err.count("\n") == 1, answer


@pytest.mark.parametrize("name", ["scenario.yaml", "banks.jsonl", "summary.json"])
def test_who_reads_a_run_is_told(ended: Path, command: Command, name: str) -> None:
    read("pipe", ended, command, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TABLES, "grid.json", "LOCK"])
@pytest.mark.parametrize("kind", KINDS)
def test_who_reads_a_run_is_told_of_every_file(ended: Path, command: Command, kind: str, name: str) -> None:
    read(kind, ended, command, name)


def read(kind: str, ended: Path, command: Command, name: str) -> None:
    shutil.copytree(ended, "runs/run")
    put(kind, Path("runs/run") / name)
    for arguments in (("watch", "runs/run"), ("watch", "runs", "--once"), ("compare", "runs"), ("report", "runs")):
        answer = command(*arguments)
        if arguments[-1] == "--once" and answer.code == 1:
            continue  # it goes on, for all that is known
        require_told(answer)
    assert command("doctor", "--runs", "runs").code in (0, 4)


def resumed(ended: Path, command: Command, kind: str, name: str) -> None:
    shutil.copytree(ended, "run")
    put(kind, Path("run") / name)
    answer = command("resume", "run", "--set", "num_rounds=2", "--inline", "--quiet")
    assert answer.code in (0, 5, 6), answer
    assert answer.code == 0 or answer.err.count("\n") == 1, answer


@pytest.mark.parametrize(
    ("kind", "name"), [("pipe", "timeline.jsonl"), ("full", "failures.jsonl"), ("endless", "journal.wal")]
)
def test_resume_is_told(ended: Path, command: Command, kind: str, name: str) -> None:
    resumed(ended, command, kind, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TABLES, *NEEDED[:5], "rounds/000001/server.safetensors", "adapters"])
@pytest.mark.parametrize("kind", KINDS)
def test_resume_is_told_of_every_file(ended: Path, command: Command, kind: str, name: str) -> None:
    resumed(ended, command, kind, name)


# --------------------------------------------------------------------------------------------------- what users give


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ["check", "inspect", "plan", "run"])
def test_a_scenario_that_is_no_file(command: Command, verb: str, kind: str) -> None:
    put(kind, Path("s.yaml"))
    answer = command(verb, "s.yaml")
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1), answer


DATA = {
    "data.csv": "{kind: table, path: data.csv, text: '{a}', label: b}",
    "data.parquet": "{kind: table, path: data.parquet, text: '{a}', label: b}",
    "data.csv.gz": "{kind: table, path: 'data*.csv.gz', text: '{a}', label: b}",
    "data.jsonl": "{kind: jsonl, path: data.jsonl, text: '{a}', label: b}",
    "data.npz": "{kind: npz, path: data.npz}",
    "images/x/1.png": "{kind: image_folder, path: images}",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DATA)
def test_data_that_are_no_file(command: Command, name: str, kind: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    put(kind, Path(name))
    model = "{kind: resnet}" if name.endswith(("npz", "png")) else "{kind: embedded}"
    lines = SCENARIO.replace("{kind: loan_book, num_banks: 2, rows_per_bank: 30}", DATA[name])
    Path("s.yaml").write_text(lines.replace("{kind: by_column, column: bank}", "{kind: iid, num_banks: 2}"))
    text = Path("s.yaml").read_text().replace("{kind: embedded}", model)
    Path("s.yaml").write_text(text)
    answer = command("inspect", "s.yaml")
    assert answer.code in (2, 3), answer
    assert "internal error" not in answer.err


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "notes.txt"])
def test_a_model_folder_that_holds_no_files(command: Command, name: str, kind: str) -> None:
    Path("model").mkdir()
    for other in ("config.json", "tokenizer.json", "model.safetensors"):
        (Path("model") / other).write_bytes(b"{}")
    put(kind, Path("model") / name)
    Path("s.yaml").write_text(SCENARIO.replace("{kind: embedded}", "{kind: hf, id: ./model, task: causal_lm}"))
    answer = command("run", "s.yaml", "--inline", "--quiet")
    assert (answer.code, answer.err.count("\n")) == (3, 1), answer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["split", "noise key"])
def test_other_files_that_a_scenario_names(command: Command, what: str, kind: str) -> None:
    put(kind, Path("named"))
    text = SCENARIO + "privacy: {kind: dp_sgd, noise_multiplier: 1.0, dp_delta: 1e-4, noise_key: named}\n"
    if what == "split":
        text = SCENARIO.replace("{kind: by_column, column: bank}", "{kind: file, path: named}")
    Path("s.yaml").write_text(text)
    answer = command("run", "s.yaml", "--inline", "--quiet")
    assert answer.code in (2, 3, 8), answer
    assert answer.err.count("\n") == 1
