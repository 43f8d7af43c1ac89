"""Programs of faults that need a Ray of their own: what they run, what they print, and how a test starts one.

A program is a function ``name(folder)`` of ``tests.faults.nodes`` or ``tests.faults.sessions``; what it returns is
printed as one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.core.adapter import Tensors
from fedsim.core.messages import TrainJob
from fedsim.engine.actor import ClientActor
from fedsim.train.values import Trained
from tests.engine import fakes
from tests.faults.runs import Run, plan

ROOT = Path(__file__).resolve().parents[2]


class Struck(fakes.ToyTrainer):
    """In round 2 something befalls the bank "north"; ``what``, empty for nothing, says what."""

    def __init__(self, folder: Path, what: str) -> None:
        super().__init__(fakes.LocalRule(), None, private=True)
        self.folder, self.what = folder, what

    def _train(self, job: TrainJob, kept: Tensors) -> Trained:
        strikes = bool(self.what) and job.round == 1 and job.bank == "north"
        if strikes:
            self.before()
        trained = super()._train(job, kept)
        return self.after(trained, kept, strikes)

    def before(self) -> None:
        """Strike, in the midst of its work."""

    def after(self, trained: Trained, kept: Tensors, strikes: bool) -> Trained:
        """What it answers, and what every bank does."""
        return trained


@dataclass(frozen=True)
class MakeTrainer:
    kind: type[Struck]
    folder: Path
    what: str

    def __call__(self) -> Struck:
        return self.kind(self.folder, self.what)


def make_client(kind: type[Struck], folder: Path, what: str) -> ClientActor:
    of = plan()
    return ClientActor(MakeTrainer(kind, folder, what), of.rule, of.upload, failures=of.failures)


def result(run: Run, reference: Run) -> dict[str, Any]:
    return {
        "same": run.hash == reference.hash != "none",
        "same_ledger": run.ledger == reference.ledger,
        "failed": [(one.bank, one.round, one.attempt, one.cause, one.action) for one in run.failed],
        "messages": [one.message for one in run.failed],
        "error": None if run.error is None else [run.error.exit_code, str(run.error)],
    }


def tell(programs: Mapping[str, Callable[[Path], dict[str, Any]]], name: str, folder: str) -> None:
    """Run one in this process."""
    sys.stdout.write(json.dumps(programs[name](Path(folder))) + "\n")


def told_by(module: str, name: str, folder: Path) -> dict[str, Any]:
    """Run one in a process of its own, without Ray's settings of this one; what it prints."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "RAY_raylet_start_wait_time_s": "300",
    }
    command = f"from tests.faults.apart import tell; from {module} import PROGRAMS; "
    command += f"tell(PROGRAMS, {name!r}, {str(folder)!r})"
    done = subprocess.run(
        [sys.executable, "-c", command], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
