"""F6: SIGKILL of the driver's process at any instant; the run goes on to the same bits, and no epsilon is lost.

The slow test is the kill loop of ``results/published/faults.md``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedsim.build.load import load_scenario
from fedsim.core.document import read
from fedsim.core.errors import BudgetError
from fedsim.engine.pool import InlinePool
from fedsim.privacy.ledger import Ledger
from fedsim.records.wal import Log
from tests.faults import toys

HERE = Path(__file__).parent
QUICKSTART = HERE.parents[1] / "scenarios" / "quickstart.yaml"
TOY_ROUNDS = 12  # as in zygote.py

VARIANTS = {
    "flasc": {"strategy": {"kind": "flasc"}, "upload": [{"kind": "affine", "bits": 8}]},
    "error feedback": {
        "upload": [{"kind": "topk", "density": 0.1, "error_feedback": True}],
        "download": [{"kind": "topk", "density": 0.5, "error_feedback": True}],
        "client_fraction": 0.5,
    },
    "scaffold": {"strategy": {"kind": "scaffold"}},
    "fdlora": {"strategy": {"kind": "fdlora", "sync_every": 2, "fusion_steps": 4}, "evaluate": {"every": 5}},
    "bank-level": {
        "privacy": {"kind": "dp_bank_adaptive", "noise_multiplier": 0.5, "dp_delta": 0.01, "count_noise": 1.0},
    },
}


def lives(what: str, folder: Path, kills: int, seed: int, horizon_s: float) -> tuple[int, float]:
    """(kills, seconds of the last life)."""
    command = [sys.executable, str(HERE / "zygote.py"), what, str(folder), str(kills), str(seed), str(horizon_s)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    killed, seconds = done.stdout.split()
    return int(killed), float(seconds)


def charged(folder: Path) -> dict[str, list[int]]:
    ledger = Ledger(log=Log(folder / "ledger.wal", BudgetError))
    banks = {bank for record in ledger_lines(folder) for bank in record.get("banks", ())}
    return {bank: ledger.rounds(bank) for bank in sorted(banks)}


def ledger_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line[18:]) for line in (folder / "ledger.wal").read_text().splitlines()]


def test_five_kills_reach_no_bit(tmp_path: Path) -> None:
    toys.run(toys.plan(tmp_path / "ref", num_rounds=TOY_ROUNDS))
    killed, _ = lives("toy", tmp_path / "cut", kills=5, seed=1, horizon_s=0.15)
    assert killed == 5
    assert toys.hashes(tmp_path / "cut") == toys.hashes(tmp_path / "ref")
    assert charged(tmp_path / "cut") == charged(tmp_path / "ref")


def test_control_a_residual_that_is_forgotten_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toys.run(toys.plan(tmp_path / "ref"))
    toys.run(toys.plan(tmp_path / "cut", num_rounds=1))
    monkeypatch.setattr(InlinePool, "load", lambda self, data: None)
    toys.run(toys.plan(tmp_path / "cut"))
    assert toys.hashes(tmp_path / "cut") != toys.hashes(tmp_path / "ref")


@pytest.mark.parametrize("name", VARIANTS)
def test_the_loop_s_scenarios_load(tmp_path: Path, name: str) -> None:
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(json.dumps(quickstart() | VARIANTS[name]))
    assert load_scenario(scenario).num_rounds == 10


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_kill_loop(tmp_path: Path, name: str) -> None:
    """Ten kills for each of five variants of the quickstart: methods, codecs and mechanisms that carry a state."""
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(json.dumps(quickstart() | VARIANTS[name]))
    _, seconds = lives(str(scenario), tmp_path / "ref", kills=0, seed=0, horizon_s=1)
    killed, seed = 0, 1
    while killed < 10:
        folder = tmp_path / f"cut-{seed}"
        killed += lives(str(scenario), folder, 10 - killed, seed, 0.4 * seconds)[0]
        assert toys.hashes(folder) == toys.hashes(tmp_path / "ref")
        assert charged(folder) == charged(tmp_path / "ref")
        assert table(folder) == table(tmp_path / "ref")
        seed += 1
    print(f"{name}: {killed} kills in {seed - 1} runs of {seconds:.1f} s")


def quickstart() -> dict[str, Any]:
    values = dict(read(QUICKSTART).data)
    values["data"] = {**values["data"], "rows_per_bank": 300}
    values["train"] = {**values["train"], "local_steps": 3}
    return values


def table(folder: Path) -> list[Any]:
    """What a run leaves for people, without what depends on time and place."""
    texts = [(folder / f"{name}.jsonl").read_text() for name in ("rounds", "banks")]
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    return [without_times(line) for line in (*lines, json.loads((folder / "summary.json").read_text()))]


def without_times(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: without_times(item) for key, item in value.items() if key not in ("seconds", "run_dir")}
