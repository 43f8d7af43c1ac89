"""A run small enough to compute by hand: three banks pull a 2 x 3 and a 4 x 2 tensor towards numbers of their own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fedsim.codecs import Codec, pipeline
from fedsim.core import seeds
from fedsim.core.adapter import AdapterState, Tensors
from fedsim.core.errors import ModelError
from fedsim.core.messages import BankInfo, Spend, TrainJob
from fedsim.core.rows import BankRows
from fedsim.engine.actor import ClientActor
from fedsim.engine.plan import Evaluation, Plan
from fedsim.engine.secure import BankSide
from fedsim.privacy.accounting import Bound
from fedsim.privacy.base import BankPlan, Mechanism, Terms
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.sources import Source
from fedsim.strategies import STRATEGIES
from fedsim.strategies.base import LocalContext, LocalRule, Outcome, Strategy
from fedsim.train.values import EvalJob, Scores, Trained

BANKS = ("east", "north", "west")
STEPS = 3
NUM_ROWS = 20  # every row is somebody's test row; row i has label i % 2


def plant(folder: Path, round_: int, bank: str, action: str, times: int = 1) -> None:
    """What goes wrong the next ``times`` times that a bank is trained in a round (counted from 0)."""
    for number in range(times):
        (folder / f"{round_}-{bank}-{number}").write_text(action)


def strike(folder: Path, job: TrainJob) -> str:
    """Use up one planted fault of this job: "<action>" strikes now, "<action>@<phase>" when the trainer gets there.

    A hanging process leaves its id in ``pid``.
    """
    for planted in sorted(folder.glob(f"{job.round}-{job.bank}-*"))[:1]:
        action = planted.read_text()
        planted.unlink()
        if action == "hang":
            (folder / "pid").write_text(str(os.getpid()))
        if "@" in action:
            return action
        _strike(action)
    return ""


def _strike(action: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    elif action == "exit":
        raise SystemExit(3)
    elif action == "model":
        raise ModelError("no weights")
    elif action == "gpu":
        raise torch.OutOfMemoryError("CUDA out of memory")
    elif action == "unpicklable":
        raise Unpicklable(1, 2)
    raise ValueError("a bug in a plug-in")


class Unpicklable(Exception):
    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} is not {right}")
        self.handle = lambda: None


def spoil(delta: Tensors, action: str) -> Tensors:
    """An update as a broken or hostile bank sends it."""
    changed = dict(delta)
    if action == "nan@update":
        changed["q.A"] = delta["q.A"].clone().index_fill_(0, torch.tensor([1]), float("nan"))
    elif action == "huge@update":
        changed["q.A"] = 1e6 * delta["q.A"]
    elif action == "shape@update":
        changed["q.B"] = delta["q.B"][:, :1]
    elif action == "missing@update":
        del changed["q.B"]
    elif action == "extra@update":
        changed["q.C"] = torch.ones(2)
    return changed


class ToyTrainer:
    """Plays any bank."""

    def __init__(self, rule: LocalRule, faults: Path | None, private: bool) -> None:
        self.rule, self.faults, self.private = rule, faults, private

    def weights(self) -> list[np.ndarray]:
        return [np.zeros(1 << 20, np.uint8)]

    def adopt(self, weights: Sequence[np.ndarray]) -> int:
        if weights[0].flags.writeable:
            raise AssertionError("these weights are a copy of the object store's")
        return len(weights[0])

    def new_adapter(self, seed: int) -> AdapterState:
        draw = seeds.generator(seed, "adapter")
        tensors = {"q.A": torch.randn(2, 3, generator=draw), "q.B": torch.zeros(4, 2)}
        return AdapterState(tensors, rank=2, scaling=2.0)

    def train(self, jobs: Sequence[TrainJob], kept: Sequence[Tensors]) -> list[Trained]:
        return [self._train(job, mine) for job, mine in zip(jobs, kept, strict=True)]

    def _train(self, job: TrainJob, kept: Tensors) -> Trained:
        fault = strike(self.faults, job) if self.faults is not None else ""
        start = self.rule.start(job, kept)
        number = BANKS.index(job.bank) + 1
        if fault == "kill@noise":
            _strike("kill")
        draw = seeds.generator(job.seed, "noise")
        trained = {
            name: tensor + STEPS * (0.1 * (number - tensor) + 0.01 * torch.randn(tensor.shape, generator=draw))
            for name, tensor in start.tensors.items()
            if self.rule.trains(name, job.round)
        }
        context = LocalContext(job=job, start=start.tensors, kept=kept, lr=0.1, num_steps=STEPS)
        outcome = self.rule.finish(start.with_tensors(trained), context)
        outcome = replace(outcome, delta=spoil(outcome.delta, fault))
        if fault == "kill@return":
            _strike("kill")
        if fault == "slow@return":
            time.sleep(1.0)
        return Trained(
            bank=job.bank,
            outcome=outcome,
            num_examples=10 * number,
            num_steps=STEPS,
            spend=Spend(1.0, 2 / (10 * number), STEPS) if self.private else None,
            oracle={"loss": float(number), "rounds": float(outcome.kept.get("rounds", 0))},
        )

    def evaluate(self, jobs: Sequence[EvalJob]) -> list[Scores]:
        return [self._evaluate(job) for job in jobs]

    def _evaluate(self, job: EvalJob) -> Scores:
        level = sum(float(tensor.sum()) for tensor in job.adapter.tensors.values())
        logits = torch.stack([torch.zeros(len(job.rows)), level * torch.tensor(job.rows / NUM_ROWS).float()], dim=1)
        log_probs = torch.log_softmax(logits, dim=1).numpy()
        labels = (job.rows % 2).astype(np.int64)
        nll = -log_probs[np.arange(len(labels)), labels]
        return Scores(job.rows, labels, log_probs, nll, np.zeros((len(labels), 0)))


@dataclass(frozen=True)
class MakeToy:
    """The picklable factory that a pool is given."""

    rule: LocalRule = field(default_factory=LocalRule)
    faults: Path | None = None
    private: bool = True

    def __call__(self) -> ToyTrainer:
        return ToyTrainer(self.rule, self.faults, self.private)


class Counting(LocalRule):
    """``kept["rounds"]`` counts how often a bank was trained, to see that it comes back."""

    def finish(self, trained: AdapterState, context: LocalContext) -> Outcome:
        rounds = context.kept.get("rounds", torch.zeros(1)) + 1
        return replace(super().finish(trained, context), kept={"rounds": rounds})


class Personal(Counting):
    """B stays at the bank (the idea of FedSA-LoRA)."""

    personal = True

    def start(self, job: TrainJob, kept: Tensors) -> AdapterState:
        return job.adapter.with_tensors({"q.B": kept["own.B"]} if "own.B" in kept else {})

    def finish(self, trained: AdapterState, context: LocalContext) -> Outcome:
        delta = {"q.A": trained.tensors["q.A"] - context.job.adapter.tensors["q.A"]}
        kept = super().finish(trained, context).kept
        return Outcome(delta=delta, slots={}, kept={**kept, "own.B": trained.tensors["q.B"]})


class ToyMechanism(Mechanism):
    """Charges, and adds nothing: the toy trainer has no rows to clip."""

    Config = Terms

    def weights(self, norms: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(norms)

    def noise(self, numel: int, source: Source) -> torch.Tensor:
        return torch.zeros(numel)

    def spend(self, num_steps: int) -> Spend | None:
        return Spend(1.0, self.plan.sample_rate, num_steps)


class ToyLedger(Ledger):
    """Epsilon is a tenth of the number of steps."""

    def epsilon(self, bank: str) -> float:
        return sum(spend.num_steps for spend in self.spent(bank)) / 10

    def tight_epsilon(self, bank: str) -> Bound:
        return Bound(self.epsilon(bank) / 2, "pld")

    def would_exceed(self, bank: str, spend: Spend | None, cap: float) -> bool:
        return spend is not None and self.epsilon(bank) + spend.num_steps / 10 > cap


def metrics(scores: Scores) -> Mapping[str, float]:
    return {"nll": float(scores.nll.mean()), "rows": float(len(scores))}


def bank_rows() -> tuple[BankRows, ...]:
    """Ten, twenty and thirty training rows; test rows 0-5, 6-11 and 12-19."""
    tests = np.split(np.arange(NUM_ROWS), [6, 12])
    return tuple(
        BankRows(name, np.arange(10 * (k + 1)), test) for k, (name, test) in enumerate(zip(BANKS, tests, strict=True))
    )


def strategy(kind: str = "fedavg") -> Strategy:
    return STRATEGIES.create(kind, {})


def plan(
    rule: LocalRule | None = None,
    num_rounds: int = 3,
    client_fraction: float = 1.0,
    upload: Codec | None = None,
    download: Codec | None = None,
    cap: float | None = None,
) -> Plan:
    rows = bank_rows()
    plans = {bank.name: BankPlan(bank.name, len(bank.train), 2.0, STEPS, num_rounds) for bank in rows}
    return Plan(
        name="toy",
        run_dir="nowhere",
        seed=7,
        num_rounds=num_rounds,
        client_fraction=client_fraction,
        strategy=strategy(),
        rule=rule or Counting(),
        download=download or pipeline(()),
        upload=upload or pipeline(()),
        banks=rows,
        infos=tuple(BankInfo(bank.name, len(bank.train), 2, 2.0) for bank in rows),
        mechanisms={name: ToyMechanism(Terms(dp_delta=1e-5), bank_plan) for name, bank_plan in plans.items()},
        ledger=ToyLedger,
        dp_cap=cap,
        evaluation=Evaluation(every=2, metrics=metrics),
    )


def make_client(of: Plan, faults: Path | None = None, secret: bytes = bytes(32)) -> Callable[[], ClientActor]:
    """What a pool builds its actors from."""
    side = BankSide(of.secure_sum, secret) if of.secure_sum else None
    return partial(ClientActor, MakeToy(of.rule, faults), of.rule, of.upload, side, of.failures)


def same(left: Tensors, right: Tensors) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def inline(of: Plan) -> Iterator[object]:
    """The events of a plan in this process: the reference that every other place must equal."""
    from fedsim.engine.driver import Driver
    from fedsim.engine.pool import InlinePool
    from fedsim.engine.resources import Actors

    return Driver(of, InlinePool(make_client(of)(), Actors())).run()


class Unloadable:
    """A client whose base model has none of the modules asked for."""

    def __call__(self) -> ClientActor:
        def load() -> ToyTrainer:
            raise ModelError("target_modules match nothing")

        return ClientActor(load, LocalRule(), pipeline(()))


@dataclass(frozen=True)
class DiesLoading:
    """A client whose process dies when it loads the base model for the first time."""

    client: Callable[[], ClientActor]
    marker: Path

    def __call__(self) -> ClientActor:
        if not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.client()


@dataclass(frozen=True)
class NotesPid:
    """A client that leaves a file named after the process it is made in."""

    client: Callable[[], ClientActor]
    folder: Path

    def __call__(self) -> ClientActor:
        (self.folder / str(os.getpid())).touch()
        return self.client()


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Fails when the condition does not become true in time."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"still not so after {timeout_s:g} s")
        time.sleep(0.1)
