"""F21: a bank that sends the opposite of what it learned, many times over.

With ``max_norm`` and ``too_long: clip`` nobody moves the mean by more than its weight times the bound; a hostile bank
that stays within the bound is not found out. With a median of updates fewer than half of the banks move it by no more
than what honest banks differ by, however much they send.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedsim.build.run import run
from fedsim.core.adapter import AdapterState, Tensors, map_tensors, norm, subtract
from fedsim.core.events import Served
from fedsim.core.sections import Failures
from fedsim.engine.pool import InlinePool
from fedsim.engine.resources import Actors
from fedsim.strategies.base import LocalContext, LocalRule, Outcome
from fedsim.strategies.fedavg import FedAvg
from fedsim.strategies.rfa import RFA
from tests.engine import fakes
from tests.faults.runs import Run, plan

TIMES = 50.0
BOUND = 4.0  # the honest banks' updates have norms up to 3.2
CLIP = Failures(max_norm=BOUND, too_long="clip")

SCENARIO = """
seed: 3
num_rounds: 5
data: {kind: loan_book, num_banks: 4, rows_per_bank: 300}
partition: {kind: by_column, column: bank, num_banks: 4}
model: {kind: embedded}
lora: {r: 4, target_modules: [q_proj, v_proj]}
train: {local_steps: 10, batch_size: 32, optimizer: sgd, lr: 1.0}
evaluate: {every: 5, metrics: [nll], per_bank: false}
"""


class Hostile(LocalRule):
    """Sends -50 times its update, where it is the bank of that name."""

    def __init__(self, bank: str) -> None:
        self.bank = bank

    def finish(self, trained: AdapterState, context: LocalContext) -> Outcome:
        outcome = super().finish(trained, context)
        if context.job.bank != self.bank:
            return outcome
        return replace(outcome, delta=map_tensors(lambda tensor: -TIMES * tensor, outcome.delta))


class Poisoned(FedAvg):
    """FedAvg with one hostile bank."""

    def rule(self) -> LocalRule:
        return Hostile("bank-00")


class PoisonedMedian(RFA):
    """The same with a geometric median."""

    def rule(self) -> LocalRule:
        return Hostile("bank-00")


def final(rule: LocalRule, num_rounds: int, failures: Failures | None = None, kind: str = "fedavg") -> Tensors:
    """The global adapter at the end."""
    of = replace(plan(failures, num_rounds), rule=rule, strategy=fakes.strategy(kind))
    events = Run.of(of, InlinePool(fakes.make_client(of)(), Actors())).events
    (served,) = (event for event in events if isinstance(event, Served))
    return served.adapter.tensors


def test_one_round_is_moved_by_its_weight_times_the_bound_at_most() -> None:
    clean, start = final(LocalRule(), 1), fakes.MakeToy()().new_adapter(plan().seed).tensors
    honest = norm(subtract(clean, start))
    share = 20 / 60  # of north in the mean
    moved = norm(subtract(final(Hostile("north"), 1, CLIP), clean))
    bare = norm(subtract(final(Hostile("north"), 1), clean))
    own = bare / (share * (TIMES + 1))  # the norm of north's honest update
    assert moved == pytest.approx(share * (BOUND + own), rel=1e-5)
    assert bare > 10 * moved, "control"
    assert moved < honest


def test_rounds_do_not_add_up_to_more_than_training_mends() -> None:
    clean = final(LocalRule(), 8)
    assert norm(subtract(final(Hostile("north"), 8, CLIP), clean)) < norm(clean)
    assert norm(subtract(final(Hostile("north"), 8), clean)) > 100 * norm(clean), "control"


@pytest.mark.parametrize("kind", ["rfa", "fedmedian"])
def test_a_median_is_moved_by_no_more_than_honest_banks_differ(kind: str) -> None:
    clean = final(LocalRule(), 8, kind=kind)
    assert norm(subtract(clean, final(LocalRule(), 8))) < norm(clean) / 2, "it learns what the mean learns"
    assert norm(subtract(final(Hostile("north"), 8, kind=kind), clean)) < norm(clean)
    assert norm(subtract(final(Hostile("north"), 8), clean)) > 100 * norm(clean), "control"


@pytest.mark.slow
def test_a_language_model_stays_in_the_band_of_the_clean_run(tmp_path: Path) -> None:
    scenario = tmp_path / "s.yaml"
    scenario.write_text(SCENARIO)
    poisoned = f"strategy={{kind: '{__name__}:Poisoned'}}"
    ways = {"clean": [], "bare": [poisoned], "clipped": [poisoned, "failures={max_norm: 0.5, too_long: clip}"]}
    ways["median"] = [f"strategy={{kind: '{__name__}:PoisonedMedian'}}"]
    nll = {}
    for name, changes in ways.items():
        *_, finished = run(scenario, changes, tmp_path / name, inline=True)
        nll[name] = finished.summary["metrics"]["nll"]
    assert nll["clipped"] == pytest.approx(nll["clean"], abs=0.05)
    assert nll["median"] == pytest.approx(nll["clean"], abs=0.05)
    assert nll["bare"] > nll["clean"] + 0.5, "control"
