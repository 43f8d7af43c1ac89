"""Local training without a model: the weight change of every layer is pulled towards a bank's own target matrix.

loss_k = curvature / 2 (sum_m |frozen + product_m - target_m|^2 + |head - target|^2). A rule's hooks are called in the
order of the real loop: start, (gradient, correct, step) x num_steps, finish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedsim.core.adapter import AdapterState, Tensors, add, factor, modules, product
from fedsim.core.messages import BankInfo, Exchange, ServerState, TrainJob, Update
from fedsim.strategies import LocalContext, LocalRule, Strategy

SHAPES = {"q": (3, 4), "v": (5, 3)}  # module -> (d_out, d_in), neither square
HEAD = "head.score.weight"


@dataclass(frozen=True)
class ToyBank:
    name: str
    num_examples: int
    targets: Mapping[str, Tensor]  # module or head name -> the values it wants
    curvature: float = 1.0


@dataclass(frozen=True)
class Local:
    lr: float = 0.02
    num_steps: int = 3


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def new_adapter(rank: int = 2, scaling: float = 2.0, seed: int = 0, zero_b: bool = True, dtype=torch.float64):
    tensors = {HEAD: draw(2, 3, seed=seed)}
    for number, (module, (d_out, d_in)) in enumerate(SHAPES.items()):
        tensors[f"{module}.A"] = draw(rank, d_in, seed=seed + 10 * number + 1)
        b = draw(d_out, rank, seed=seed + 10 * number + 2)
        tensors[f"{module}.B"] = torch.zeros_like(b) if zero_b else b
    return AdapterState({name: tensor.to(dtype) for name, tensor in tensors.items()}, rank, scaling)


def new_banks(sizes: Sequence[int] = (5, 11, 2), dtype=torch.float64, same: bool = False) -> list[ToyBank]:
    banks = []
    for number, size in enumerate(sizes):
        seed = 100 if same else 100 * (number + 1)
        targets = {module: draw(*shape, seed=seed + i) for i, (module, shape) in enumerate(SHAPES.items())}
        targets[HEAD] = draw(2, 3, seed=seed + 50)
        targets = {name: target.to(dtype) for name, target in targets.items()}
        banks.append(ToyBank(f"bank{number}", size, targets))
    return banks


def infos(banks: Sequence[ToyBank], ranks: Sequence[int] | None = None, scalings: Sequence[float] | None = None):
    ranks = ranks or [2] * len(banks)
    scalings = scalings or [2.0] * len(banks)
    return [BankInfo(b.name, b.num_examples, r, s) for b, r, s in zip(banks, ranks, scalings, strict=True)]


def change(adapter: AdapterState, frozen: Sequence[AdapterState], module: str) -> Tensor:
    """The whole weight change of a module, float64."""
    total = product(adapter, module)
    for below in frozen:
        total = total + product(below, module)
    return total


def loss(adapter: AdapterState, frozen: Sequence[AdapterState], bank: ToyBank) -> Tensor:
    gaps = [change(adapter, frozen, m) - bank.targets[m] for m in modules(adapter.tensors)]
    gaps += [t.double() - bank.targets[n] for n, t in adapter.tensors.items() if factor(n) == "head"]
    return bank.curvature / 2 * torch.stack([gap.square().sum() for gap in gaps]).sum()


def gradients(adapter: AdapterState, frozen: Sequence[AdapterState], bank: ToyBank) -> dict[str, Tensor]:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in adapter.tensors.items()}
    value = loss(adapter.with_tensors(leaves), frozen, bank)
    return dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))


def train(rule: LocalRule, job: TrainJob, kept: Tensors, bank: ToyBank, local: Local) -> tuple[Update, Tensors]:
    start = rule.start(job, kept)
    names = [name for name in start.tensors if rule.trains(name, job.round)]
    params = {name: start.tensors[name].clone() for name in names}
    context = LocalContext(job=job, start=start.tensors, kept=kept, lr=local.lr, num_steps=local.num_steps)
    for step in range(local.num_steps):
        every = gradients(start.with_tensors(params), job.frozen, bank)
        grads = {name: every[name].clone() for name in names}
        rule.correct(params, grads, replace(context, step=step))
        for name in names:
            params[name] -= local.lr * rule.lr_scale(name) * grads[name]
    outcome = rule.finish(start.with_tensors({name: param.clone() for name, param in params.items()}), context)
    update = Update(job.bank, outcome.delta, bank.num_examples, local.num_steps, slots=outcome.slots)
    return update, outcome.kept


def exchange_all(
    strategy: Strategy, state: ServerState, banks: Sequence[ToyBank], kept: dict[str, Tensors], local: Local
) -> list[Exchange]:
    """Train every bank for one round; ``kept`` is updated."""
    exchanges = []
    for bank in banks:
        job = strategy.configure(state, bank.name, seed=17)
        update, kept[bank.name] = train(strategy.rule(), job, kept.get(bank.name, {}), bank, local)
        exchanges.append(Exchange(job, update))
    return exchanges


def play(
    strategy: Strategy,
    state: ServerState,
    banks: Sequence[ToyBank],
    num_rounds: int = 1,
    local: Local = Local(),
    kept: dict[str, Tensors] | None = None,
) -> ServerState:
    kept = {} if kept is None else kept
    for _ in range(num_rounds):
        state = strategy.aggregate(state, exchange_all(strategy, state, banks, kept, local))
    return state


def answer(
    strategy: Strategy, state: ServerState, ended: Sequence[AdapterState], sizes: Sequence[int]
) -> list[Exchange]:
    """Exchanges in which the banks of ``state`` end with the given adapters."""
    exchanges = []
    for info, adapter, size in zip(state.banks, ended, sizes, strict=True):
        job = strategy.configure(state, info.name, seed=17)
        names = [name for name in adapter.tensors if strategy.rule().trains(name, state.round)]
        delta = {name: adapter.tensors[name] - job.adapter.tensors[name] for name in names}
        exchanges.append(Exchange(job, Update(info.name, delta, size, 1)))
    return exchanges


def ended(strategy: Strategy, exchange: Exchange) -> AdapterState:
    """The adapter a bank ended with: its start plus its delta (for methods whose banks keep nothing)."""
    start = strategy.rule().start(exchange.job, {})
    return start.with_tensors(add(start.tensors, exchange.update.delta))


def close(left: Tensor, right: Tensor, tolerance: float = 1e-12) -> bool:
    return torch.allclose(left.double(), right.double(), rtol=tolerance, atol=tolerance)


def scalar_bank(name: str, curvature: float, target: float, num_examples: int = 1) -> ToyBank:
    """loss = curvature / 2 (x - target)^2 for the single value "head.x"."""
    return ToyBank(name, num_examples, {"head.x": torch.tensor([target], dtype=torch.float64)}, curvature)


def scalar_adapter(value: float = 0.0) -> AdapterState:
    return AdapterState({"head.x": torch.tensor([value], dtype=torch.float64)}, 1, 1.0)
