"""A run small enough to be killed at every step, and what is compared afterwards."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from fedsim.codecs import pipeline
from fedsim.core.errors import BudgetError, FedsimError
from fedsim.core.events import Event
from fedsim.engine.driver import Driver
from fedsim.engine.plan import Plan
from fedsim.engine.pool import InlinePool
from fedsim.engine.resources import Actors
from fedsim.engine.store import StorePlan
from fedsim.privacy.ledger import Ledger
from fedsim.records.lock import acquire, release
from fedsim.records.wal import Log
from tests.engine import fakes


def store(folder: Path, repeatable: bool = True, fallback: bool = True) -> StorePlan:
    """Where a toy run is written. Whoever held the folder before is fenced off."""
    folder.mkdir(parents=True, exist_ok=True)
    return StorePlan(folder, acquire(folder, steal=True), "identity", "surroundings", repeatable, fallback)


def plan(folder: Path, num_rounds: int = 3, cap: float | None = None, **how: bool) -> Plan:
    """Personal adapters, error feedback both ways, two of three banks in a round."""
    codec = pipeline([("topk", {"density": 0.5, "error_feedback": True})])
    toy = fakes.plan(fakes.Personal(), num_rounds, client_fraction=0.7, upload=codec, download=codec, cap=cap)
    return replace(toy, store=store(folder, **how), run_dir=str(folder))


def run(toy: Plan) -> list[Event]:
    """All events of a driver in this process."""
    return list(Driver(toy, InlinePool(fakes.make_client(toy)(), Actors())).run())


def gone_on(folder: Path, whole: Path, num_rounds: int) -> str:
    """Go on with a run: to the bits and charges of the run in ``whole``, or to one line that names the directory."""
    refusal, code = "", 0
    try:
        release(acquire(folder))
        run(plan(folder, num_rounds))
    except FedsimError as error:
        refusal, code = str(error), error.exit_code
    if code:
        assert code in (5, 6)
        assert "\n" not in refusal
        assert str(folder) in refusal
        return f"exit {code}"
    assert hashes(folder) == hashes(whole)
    assert charged(folder) == charged(whole)
    return "same bits"


def hashes(folder: Path) -> list[str]:
    """Of the manifests of the two newest rounds: equal for runs of the same bits."""
    manifests = sorted((folder / "rounds").glob("[0-9]*/MANIFEST.json"))[-2:]
    assert manifests
    assert json.loads((folder / "HEAD").read_text())["round"] == int(manifests[-1].parent.name)
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in manifests]


def charged(folder: Path) -> dict[str, list[int]]:
    """By bank the rounds (from 1) that it was charged for, as often as it was."""
    ledger = Ledger(log=Log(folder / "ledger.wal", BudgetError))
    return {bank: ledger.rounds(bank) for bank in fakes.BANKS}
