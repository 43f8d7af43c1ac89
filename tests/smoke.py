"""The smoke scenarios of ``scenarios/methods``, played in this process on a small random model and 32 training rows.

Method, adapter, local training and rounds are the scenario's; the rows and the model are those of ``tests/tiny.py``, so
that neither the loan book nor the weights that ship with fedsim can move a result.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from fedsim.build.load import load_scenario
from fedsim.build.prepare import Material, make_job
from fedsim.core.adapter import AdapterState
from fedsim.core.events import RoundRow, Served
from fedsim.core.messages import BankInfo, Exchange, ServerState, TrainJob
from fedsim.core.scenario import Scenario
from fedsim.core.sections import Lora
from fedsim.engine.driver import Driver
from fedsim.engine.pool import InlinePool
from fedsim.models.base import CohortModel
from fedsim.models.hf import HuggingFace
from fedsim.strategies import Strategy
from tests import tiny

SCENARIOS = sorted((Path(__file__).resolve().parents[1] / "scenarios" / "methods").glob("*.yaml"))
SAVE = {"causal_lm": tiny.save_llama, "sequence_classification": tiny.save_bert}


@dataclass(frozen=True)
class Played:
    """One run: its rows (round 0 is before training), what crossed in each training round, and the final model."""

    scenario: Scenario
    rows: tuple[RoundRow, ...]
    rounds: tuple[tuple[Exchange, ...], ...]
    served: Served


def play(path: Path, overrides: Sequence[str] = (), task: str = "causal_lm") -> Played:
    """Run one scenario. ScenarioError when it is refused at load."""
    scenario = load_scenario(path, overrides)
    job = make_job(scenario, material(task), "nowhere")
    recorder = Recorder(job.plan.strategy)
    plan = replace(job.plan, strategy=recorder, audited=True)  # so that the updates come one by one
    driver = Driver(plan, InlinePool(job.make_client(), job.actors))
    events = list(driver.run())
    rows = tuple(event for event in events if isinstance(event, RoundRow))
    served = next(event for event in events if isinstance(event, Served))
    return Played(scenario, rows, tuple(recorder.rounds), served)


@cache
def played(path: Path) -> Played:
    """The run of a scenario as it is, once per session."""
    return play(path)


class Recorder(Strategy):
    """A strategy as it is, and all exchanges that its server half is given."""

    def __init__(self, inner: Strategy) -> None:
        super().__init__(inner.config)
        self.inner = inner
        self.rounds: list[tuple[Exchange, ...]] = []

    def init(self, adapter: AdapterState, banks: Sequence[BankInfo], seed: int) -> ServerState:
        return self.inner.init(adapter, banks, seed)

    def arrivals(self, state: ServerState) -> list[str] | None:
        return self.inner.arrivals(state)

    def configure(self, state: ServerState, bank: str, seed: int) -> TrainJob:
        return self.inner.configure(state, bank, seed)

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        self.rounds.append(tuple(exchanges))
        return self.inner.aggregate(state, exchanges)

    def serve(self, state: ServerState) -> AdapterState:
        return self.inner.serve(state)


class LoadedOnce(HuggingFace):
    """A model that stays in memory between runs: runs share its frozen weights and nothing else."""

    def load(self, lora: Lora, num_labels: int) -> CohortModel:
        return loaded(self.config.task, lora.model_dump_json(exclude={"bank_ranks"}), num_labels)


@cache
def loaded(task: str, lora: str, num_labels: int) -> CohortModel:
    return HuggingFace(config(task)).load(Lora.model_validate_json(lora), num_labels)


@cache
def material(task: str) -> Material:
    corpus, model = tiny.corpus(), LoadedOnce(config(task))
    return Material(corpus, tiny.three_banks(corpus), model, model.encode(corpus))


@cache
def config(task: str) -> HuggingFace.Config:
    folder = Path(tempfile.mkdtemp(prefix="fedsim-"))
    atexit.register(shutil.rmtree, folder)
    return HuggingFace.Config(id=str(SAVE[task](folder)), task=task, max_length=64)
