"""What every method's server does to one fixed set of bank updates, and what that costs.

    python -m tests.benchmarks.methods_table

writes ``results/published/methods.md``. What is measured is in ``fixed_banks``.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fedsim.core.adapter import subtract, weighted_mean
from fedsim.core.messages import ServerState
from fedsim.records.environment import environment
from fedsim.strategies import STRATEGIES, Strategy
from tests.benchmarks.fixed_banks import (
    ALPHA,
    HEAD,
    RANK,
    RANKS,
    SEED,
    SHAPES,
    SIZES,
    BankRun,
    Row,
    Setup,
    draw,
    exchanges,
    mean_of_models,
    measure,
    norm,
    products,
    relative_error,
    train,
)

TARGET = Path(__file__).resolve().parents[2] / "results" / "published" / "methods.md"


def create(kind: str, **knobs: object) -> Strategy:
    return STRATEGIES.create(kind, knobs)


# ------------------------------------------------------------------------------------------------ FedIT, looked into


def first_round(kind: str) -> tuple[Strategy, ServerState, list[BankRun]]:
    setup = Setup(create(kind))
    state = setup.init()
    jobs = [setup.strategy.configure(state, info.name, SEED) for info in state.banks]
    return setup.strategy, state, [train(setup.strategy, job, bank, {}) for bank, job in enumerate(jobs)]


def covariance_identity() -> tuple[float, float, float]:
    """|error of FedIT|, |sum p_k s (B_k - B)(A_k - A)|, and the norm of their difference over the first."""
    strategy, state, runs = first_round("fedavg")
    served = strategy.aggregate(state, exchanges(runs)).adapter
    error = subtract(mean_of_models(runs), products(served, ()))
    mean = weighted_mean([run.ended.tensors for run in runs], SIZES)
    centred = [run.ended.with_tensors(subtract(run.ended.tensors, mean)) for run in runs]
    covariance = weighted_mean([products(bank, ()) for bank in centred], SIZES)
    return norm(error), norm(covariance), norm(subtract(error, covariance)) / norm(error)


GAUGES = ("as trained", "rotated", "stretched")


def gauge(name: str, bank: int) -> Tensor:
    """An invertible (rank, rank) Q; (B Q, Q^-1 A) is the same model as (B, A)."""
    if name == "as trained":
        return torch.eye(RANK, dtype=torch.float64)
    q, _ = torch.linalg.qr(draw(RANK, RANK, name=f"gauge {bank}", scale=1.0))
    return q if name == "rotated" else q * draw(RANK, name=f"stretch {bank}", scale=0.5).exp()


def error_in_gauge(kind: str, name: str) -> float:
    """The first round's error when every bank reports its own model in another gauge."""
    strategy, state, runs = first_round(kind)
    told = []
    for bank, run in enumerate(runs):
        q = gauge(name, bank)
        turned = {f"{m}.A": torch.linalg.solve(q, run.ended.tensors[f"{m}.A"]) for m in SHAPES}
        turned |= {f"{m}.B": run.ended.tensors[f"{m}.B"] @ q for m in SHAPES}
        start = strategy.rule().start(run.job, {}).tensors
        outcome = replace(run.outcome, delta=subtract({**run.ended.tensors, **turned}, start))
        told.append(replace(run, outcome=outcome))
    after = strategy.aggregate(state, exchanges(told))
    return relative_error(products(strategy.serve(after), after.frozen), mean_of_models(runs))


def error_of_published_baseline() -> float:
    """ATP-1010/FederatedLLM, model_aggregation.py L122: a misspelt accumulator leaves p_0 (client 0) alone."""
    _, _, runs = first_round("fedavg")
    share = SIZES[0] / sum(SIZES)
    left = runs[0].ended.with_tensors({name: share * tensor for name, tensor in runs[0].ended.tensors.items()})
    return relative_error(products(left, ()), mean_of_models(runs))


# ------------------------------------------------------------------------------------------------------- the document


def number(value: float) -> str:
    if math.isnan(value):
        return "n/a"
    return "0" if value == 0 else f"{value:.1e}" if value < 1e-3 else f"{value:.4f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


COLUMNS = ("method", "exact, by its sheet", "error 1", "error 2", "up 1", "up 2", "down 1", "down 2")


def cells(row: Row, has_global: bool = True) -> list[str]:
    errors = [number(error if has_global else math.nan) for error in row.errors]
    traffic = [(f"{b.encoded:,.0f}", f"{b.values:,.0f}") for b in row.up + row.down]
    return errors + [wire if wire == values else f"{wire} ({values})" for wire, values in traffic]


def trained_methods() -> list[tuple[str, type[Strategy]]]:
    return [(kind, method) for kind, method in STRATEGIES.items() if method.sheet.trains != "nothing"]


def equal_ranks() -> list[list[str]]:
    rows = []
    for kind, method in trained_methods():
        setup = Setup(create(kind), (RANK,)) if kind == "pooled" else Setup(create(kind))
        rows.append([kind, method.sheet.exact, *cells(measure(setup), not method.sheet.personal)])
    dense = create("flasc", density_down=1.0, density_up=1.0, server_optimizer="sgd", server_lr=1.0)
    rows.append(["flasc, densities 1, plain mean", "no: banks weigh alike", *cells(measure(Setup(dense)))])
    return [*rows, ["(published FedIT baseline, a bug)", "no", number(error_of_published_baseline()), *["-"] * 5]]


def unequal_ranks() -> list[list[str]]:
    rows = []
    for kind, method in trained_methods():
        if method.sheet.mixed_ranks:
            row = measure(Setup(create(kind), RANKS))
            rows.append([kind, method.sheet.exact, *cells(row, not method.sheet.personal)])
    return rows


def gauges() -> list[list[str]]:
    kinds = ("fedavg", "fedex_lora", "flora", "flexlora")
    return [[kind, *(number(error_in_gauge(kind, name)) for name in GAUGES)] for kind in kinds]


def identity() -> list[list[str]]:
    error, covariance, gap = covariance_identity()
    return [[f"{error:.12f}", f"{covariance:.12f}", number(gap)]]


def made_by() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
    cpu = names[0] if names else platform.processor()
    commit = environment(SEED)["git_commit"]
    command = "`python -m tests.benchmarks.methods_table`"
    return f"{command}, commit {commit}, {cpu}, {os.cpu_count()} cores, torch {torch.__version__}"


DOCUMENT = """# What every method's server makes of the same bank updates

Made by {made_by}.

{num_banks} banks of {sizes} rows; layers {layers}, a trained head of {head} values.
Every bank has one fixed change of every tensor: from B = 0 in round 1, from what round 1 left in round 2. A method
trains, masks and corrects it as its bank half says. Default knobs.

**Error**: |weight change of the server's model - mean of the banks'| / |that mean|, Frobenius over all layers, float64,
banks weighing by their rows. About 1e-16 is rounding. A method with a server optimiser takes a step of its own size
and FLASC serves a masked model: theirs is no fault, only no mean. n/a: every bank has a model of its own.
**Bytes**, mean per bank, in rounds 1 and 2: the encoded messages, head included, values as float32; in brackets the
values alone, which is what papers count. Down 2 is what has changed since round 1.

## One rank, {rank}

{equal_ranks}

The last row is no method of fedsim: the FedIT baseline of ATP-1010/FederatedLLM adds up into a misspelt name
(`model_aggregation.py`, line 122) and returns bank 0's adapter times its weight. A comparison with it says nothing.
SCAFFOLD is exact in round 2 because gradients are constant here: its controls then make all banks equal. FlexLoRA's
error is what does not fit the rank.

## Unequal ranks: {ranks}; scaling {alpha} / rank

{unequal_ranks}

## Why FedIT misses the mean

Its error is the covariance of the factors over the banks, sum p_k s (B_k - mean B)(A_k - mean A):

{identity}

(B Q, Q^-1 A) is the same model as (B, A) for every invertible Q, yet the result of FedIT depends on it. Error of
round 1 when every bank reports the model it has in another gauge (Q a rotation; a rotation and a stretch):

{gauges}
"""


def document() -> str:
    return DOCUMENT.format(
        made_by=made_by(),
        num_banks=len(SIZES),
        sizes=", ".join(map(str, SIZES)),
        layers=", ".join(f"{name} {d_out} x {d_in}" for name, (d_out, d_in) in SHAPES.items()),
        head=sum(math.prod(shape) for shape in HEAD.values()),
        rank=RANK,
        equal_ranks=table(COLUMNS, equal_ranks()),
        ranks=", ".join(map(str, RANKS)),
        alpha=ALPHA,
        unequal_ranks=table(COLUMNS, unequal_ranks()),
        identity=table(("norm of the error", "norm of the covariance", "relative difference"), identity()),
        gauges=table(("method", *GAUGES), gauges()),
    )


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(document(), encoding="utf-8")
    print(TARGET.read_text(encoding="utf-8"))
