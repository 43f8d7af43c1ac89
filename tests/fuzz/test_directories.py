"""Run directories with damaged, missing and growing files, and the commands that tell of them: watch, compare, report,
doctor. Each ends with an answer or with one line that says why not; none waits for what never comes.

What goes on with such a directory is in ``test_rounds``.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

import fedsim
from tests.calling import Command
from tests.fuzz.conftest import seeds
from tests.fuzz.contents import edited, paths
from tests.fuzz.mutations import broken

pytestmark = pytest.mark.timeout(60)
CODES = {0, 2, 3, 4, 5, 6, 8}
RUNNING = 1  # of ``watch --once``, where the run has not ended for all that is known
COMMANDS = {
    "watch": ("watch", "runs/run"),
    "watch --once": ("watch", "runs", "--once", "--format", "json"),
    "compare": ("compare", "runs"),
    "compare --format latex": ("compare", "runs", "--format", "latex"),
    "report": ("report", "runs"),
    "doctor": ("doctor", "--runs", "runs"),
}
VALUES = (None, True, -1, 2.5, 10**30, 1e308, "", "x", [], [[1]], {}, {"a": 1})
SCENARIO = """\
num_rounds: 3
seed: 5
data: {kind: loan_book, num_banks: 2, rows_per_bank: 30}
partition: {kind: by_column, column: bank}
model: {kind: embedded}
lora: {r: 2, target_modules: [q_proj]}
train: {local_steps: 1, batch_size: 4}
privacy: {kind: dp_sgd, noise_multiplier: 1.0, dp_delta: 1e-4}
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ended")
    (folder / "s.yaml").write_text(SCENARIO)
    fedsim.run(folder / "s.yaml", out=folder / "run", inline=True)
    return folder / "run"


def damage(run: Path, rng: Random) -> None:
    """One to three of: bytes broken, cut off, a file gone or empty, other values or no value at some key of JSON."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        files = [path for path in sorted(run.iterdir()) if path.is_file()]
        if not files:
            return
        path, action = rng.choice(files), rng.randrange(8)
        if action == 0:
            path.unlink()
        elif action == 1:
            path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size + 1)])
        elif action <= 3 or path.suffix not in (".json", ".jsonl"):
            path.write_bytes(broken(path.read_bytes(), rng))
        else:
            path.write_text(other_json(path.read_text(errors="replace"), rng, path.suffix == ".jsonl"))


def other_json(text: str, rng: Random, lines: bool) -> str:
    """Something else, or nothing, at one place of one object."""
    objects = text.splitlines() if lines else [text]
    place = rng.randrange(len(objects)) if objects else 0
    try:
        value = json.loads(objects[place])
    except (ValueError, IndexError):
        return text
    objects[place] = json.dumps(edited(value, *rng.choice(list(choices(value, rng)))))
    return "\n".join(objects) + "\n"


def choices(value: object, rng: Random) -> Iterator[tuple[tuple[object, ...], object]]:
    for path in paths(value):
        yield path, rng.choice(VALUES)
        if path:
            yield path, ...


def told(ended: Path, command: Command, name: str, seed: int) -> str:
    """What a command says of a damaged directory."""
    shutil.rmtree("runs", ignore_errors=True)
    shutil.copytree(ended, "runs/run")
    damage(Path("runs/run"), Random(f"{name} {seed}"))
    answer = command(*COMMANDS[name])
    assert answer.code in CODES | ({RUNNING} if name.startswith("watch") else set()), (seed, answer)
    assert "Traceback" not in answer.err, (seed, answer)
    assert "internal error" not in answer.err, (seed, answer)
    if answer.code not in (0, RUNNING) and name != "doctor":
        said = answer.err.splitlines()[-1]
        assert "runs" in said, (seed, answer)
    return f"exit {answer.code}"


@pytest.mark.parametrize("name", COMMANDS)
def test_some_damaged_directories(ended: Path, command: Command, name: str) -> None:
    for seed in range(3 if name in ("doctor", "report") else 12):
        told(ended, command, name, seed)


def test_a_directory_that_grows_while_it_is_watched(ended: Path, command: Command) -> None:
    grown(ended, command, 0)


def grown(ended: Path, command: Command, seed: int) -> str:
    """Its tables come a few bytes at a time, as over a slow file system, and at times its summary."""
    rng = Random(seed)
    shutil.rmtree("runs", ignore_errors=True)
    shutil.copytree(ended, "runs/run")
    run, whole = Path("runs/run"), {}
    for name in ("summary.json", "banks.jsonl", "rounds.jsonl"):
        whole[name] = (run / name).read_bytes()
        (run / name).write_bytes(b"")
    (run / "summary.json").unlink()
    lock = json.loads((run / "LOCK").read_text())
    (run / "LOCK").write_text(json.dumps({**lock, "pid": 1, "host": "elsewhere"}))  # it may live

    def grow() -> None:
        for name in ("banks.jsonl", "rounds.jsonl"):
            for start in range(0, len(whole[name]), step):
                with (run / name).open("ab") as file:
                    file.write(whole[name][start : start + step])
        (run / "summary.json").write_bytes(
            broken(whole["summary.json"], rng) if rng.random() < 0.5 else whole["summary.json"]
        )

    step, thread = rng.choice((50, 300, 3000)), threading.Thread(target=grow)
    thread.start()
    answer = command("watch", "runs/run")
    thread.join()
    assert answer.code in CODES | {RUNNING}, (seed, answer)
    assert "internal error" not in answer.err, (seed, answer)
    return f"exit {answer.code}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", COMMANDS)
def test_many_damaged_directories(ended: Path, command: Command, name: str, fuzz_report) -> None:
    with fuzz_report(f"`fedsim {name}`, a damaged run directory") as counts:
        for seed in seeds(3000):
            counts[told(ended, command, name, seed)] += 1
    assert counts["exit 0"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_directories_that_grow(ended: Path, command: Command, fuzz_report) -> None:
    with fuzz_report("`fedsim watch`, a directory that grows") as counts:
        for seed in seeds(300):
            counts[grown(ended, command, seed)] += 1
    assert counts["exit 0"]
