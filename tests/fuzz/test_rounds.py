"""A toy's run directory with broken, missing, swapped and foreign files: it goes on to its own bits, or is refused.

Checksums tell most of this; what they do not is in ``test_checkpoints``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from fedsim.core.errors import BudgetError, CheckpointError
from fedsim.engine.driver import Driver
from fedsim.engine.plan import Plan
from fedsim.engine.pool import InlinePool
from fedsim.engine.resources import Actors
from tests.engine import fakes
from tests.faults import toys
from tests.fuzz.conftest import seeds
from tests.fuzz.mutations import broken

ROUNDS = 4
STOPPED = 3


@dataclass(frozen=True)
class Runs:
    """Folders: ``stopped`` after round 3 of 4, ``earlier`` the same after round 2, ``other`` of another seed."""

    stopped: Path
    earlier: Path
    other: Path
    adapter: list[str]  # manifests of the newest two rounds had nothing happened
    charged: dict[str, list[int]]


def plan(folder: Path, num_rounds: int, seed: int | None = None) -> Plan:
    made = toys.plan(folder, num_rounds)
    return made if seed is None else replace(made, seed=seed)


def go(toy: Plan) -> None:
    for _ in Driver(toy, InlinePool(fakes.make_client(toy)(), Actors())).run():
        pass


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    go(plan(folder / "whole", ROUNDS))
    go(plan(folder / "stopped", STOPPED))
    go(plan(folder / "earlier", STOPPED - 1))
    go(plan(folder / "other", STOPPED, seed=99))
    assert toys.hashes(folder / "other") != toys.hashes(folder / "stopped")
    whole = folder / "whole"
    return Runs(folder / "stopped", folder / "earlier", folder / "other", toys.hashes(whole), toys.charged(whole))


def files_in(folder: Path) -> list[Path]:
    """Relative. The lock is taken whatever it says."""
    found = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in found if path.name != "LOCK"]


def flip(run: Path, runs: Runs, rng: Random) -> None:
    path = run / rng.choice(files_in(run))
    body = bytearray(path.read_bytes())
    if body:
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    path.write_bytes(body)


def garble(run: Path, runs: Runs, rng: Random) -> None:
    path = run / rng.choice(files_in(run))
    path.write_bytes(broken(path.read_bytes(), rng))


def truncate(run: Path, runs: Runs, rng: Random) -> None:
    path = run / rng.choice(files_in(run))
    body = path.read_bytes()
    path.write_bytes(body[: rng.randrange(len(body) + 1)])


def drop_lines(run: Path, runs: Runs, rng: Random) -> None:
    """Whole lines of a log, from its end: each that is left is good."""
    path = run / rng.choice(["journal.wal", "ledger.wal"])
    if not path.is_dir():
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        path.write_bytes(b"".join(lines[: rng.randrange(len(lines) + 1)]))


def remove(run: Path, runs: Runs, rng: Random) -> None:
    (run / rng.choice(files_in(run))).unlink()


def folder_instead(run: Path, runs: Runs, rng: Random) -> None:
    """A folder in a file's place."""
    path = run / rng.choice(files_in(run))
    path.unlink()
    path.mkdir()


def remove_round(run: Path, runs: Runs, rng: Random) -> None:
    shutil.rmtree(run / "rounds" / f"{rng.choice((STOPPED - 1, STOPPED)):06d}", ignore_errors=True)


def swap(run: Path, runs: Runs, rng: Random) -> None:
    """Two files of one name, or all files, between the rounds."""
    left, right = (run / "rounds" / f"{round_:06d}" for round_ in (STOPPED - 1, STOPPED))
    if not (left.exists() and right.exists()):
        return
    names = [path.name for path in left.iterdir() if path.is_file() and (right / path.name).is_file()]
    for name in names if rng.random() < 0.3 else rng.sample(names, min(1, len(names))):
        first, second = (left / name).read_bytes(), (right / name).read_bytes()
        (left / name).write_bytes(second)
        (right / name).write_bytes(first)


def _from(there: Path, run: Path, rng: Random) -> None:
    if rng.random() < 0.5:
        name = rng.choice(files_in(there))
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(there / name, run / name)
    else:
        shutil.rmtree(run / "rounds", ignore_errors=True)
        shutil.copytree(there / "rounds", run / "rounds")


def from_before(run: Path, runs: Runs, rng: Random) -> None:
    """A file, or all rounds, of this run as it was a round ago: a backup that was put back."""
    _from(runs.earlier, run, rng)


def from_another(run: Path, runs: Runs, rng: Random) -> None:
    """A file, or all rounds, of another run."""
    _from(runs.other, run, rng)


DAMAGES: dict[str, Callable[[Path, Runs, Random], None]] = {
    "bit flipped": flip,
    "bytes changed": garble,
    "truncated": truncate,
    "last lines gone": drop_lines,
    "file removed": remove,
    "folder in its place": folder_instead,
    "round removed": remove_round,
    "swapped between rounds": swap,
    "of an earlier time": from_before,
    "of another run": from_another,
}


def resumed(runs: Runs, run: Path, damages: list[str], rng: Random) -> str:
    """Damage a stopped run so and go on: how it ended."""
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(runs.stopped, run)
    for name in damages:
        if files_in(run):
            DAMAGES[name](run, runs, rng)
    try:
        go(plan(run, ROUNDS))
    except (CheckpointError, BudgetError) as error:
        refusal, code = str(error), error.exit_code
    else:
        refusal = ""
    if refusal:
        assert "\n" not in refusal
        return f"exit {code}"
    assert toys.hashes(run) == runs.adapter
    charged = toys.charged(run)
    assert all(set(charged[bank]) >= set(paid) for bank, paid in runs.charged.items()), "no charge is lost"
    assert all(len(charged[bank]) >= len(paid) for bank, paid in runs.charged.items())
    return "same bits" if charged == runs.charged else "same bits, charged more"


@pytest.mark.parametrize("name", DAMAGES)
def test_one_damage(runs: Runs, tmp_path: Path, name: str) -> None:
    for seed in range(4):
        resumed(runs, tmp_path / "run", [name], Random(f"{name} {seed}"))


def test_two_damages_at_once(runs: Runs, tmp_path: Path) -> None:
    for seed in range(10):
        rng = Random(seed)
        resumed(runs, tmp_path / "run", rng.choices(list(DAMAGES), k=2), rng)


def test_a_whole_directory_goes_on(runs: Runs, tmp_path: Path) -> None:
    assert resumed(runs, tmp_path / "run", [], Random(0)) == "same bits"


def test_another_run_s_rounds_are_refused_though_nothing_in_them_is_damaged(runs: Runs, tmp_path: Path) -> None:
    """HEAD, which would tell, is gone."""
    shutil.copytree(runs.stopped, tmp_path / "run")
    (tmp_path / "run" / "HEAD").unlink()
    shutil.rmtree(tmp_path / "run" / "rounds")
    shutil.copytree(runs.other / "rounds", tmp_path / "run" / "rounds")
    with pytest.raises(CheckpointError, match="is not the journal of the run whose round 3 was found"):
        go(plan(tmp_path / "run", ROUNDS))


def test_a_ledger_that_lost_lines_together_with_head_is_refused(runs: Runs, tmp_path: Path) -> None:
    shutil.copytree(runs.stopped, tmp_path / "run")
    (tmp_path / "run" / "HEAD").unlink()
    ledger = tmp_path / "run" / "ledger.wal"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:-2]))
    with pytest.raises(BudgetError, match="no epsilon can be claimed"):
        go(plan(tmp_path / "run", ROUNDS))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_many_damages(runs: Runs, tmp_path: Path, count: int, fuzz_report) -> None:
    for name in DAMAGES if count == 1 else ("any",):
        with fuzz_report(f"a toy's run directory, {count} of: {name}") as counts:
            for seed in seeds(100 if count == 1 else 1000):
                rng = Random(f"{name} {seed}")  # else every kind would meet the same files
                damages = [name] if count == 1 else rng.choices(list(DAMAGES), k=count)
                counts[resumed(runs, tmp_path / "run", damages, rng)] += 1
