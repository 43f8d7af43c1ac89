"""FedAdam, FedYogi, FedAdagrad: one update rule with three second moments."""

from __future__ import annotations

import pytest
import torch

from fedsim.strategies import STRATEGIES
from tests.strategies.toy import answer, close, infos, new_adapter, new_banks, play, scalar_adapter, scalar_bank


def steps(name: str, knobs: dict, deltas: list[float]) -> tuple[list[float], list[float]]:
    """(x after each round, v after each round) of one scalar whose bank moves by the given deltas."""
    strategy = STRATEGIES.create(name, knobs)
    state = strategy.init(scalar_adapter(), infos([scalar_bank("a", 1, 0)]), seed=1)
    xs, vs = [], []
    for delta in deltas:
        x = float(state.adapter.tensors["head.x"])
        state = strategy.aggregate(state, answer(strategy, state, [scalar_adapter(x + delta)], [3]))
        xs.append(float(state.adapter.tensors["head.x"]))
        vs.append(float(state.slots["v/head.x"]))
    return xs, vs


@pytest.mark.parametrize(
    ("name", "knobs", "step"),
    [
        ("fedadam", {"v0": 0}, 0.0833333),
        ("fedadam", {}, 0.0819936),
        ("fedyogi", {}, 0.0819804),
        ("fedadagrad", {}, 0.0980200),
    ],
)
def test_first_step(name: str, knobs: dict, step: float) -> None:
    """Delta = .05, beta_1 = .9 (Adagrad 0), beta_2 = .99, tau = 1e-3, server_lr = .1."""
    xs, _ = steps(name, {"server_lr": 0.1, **knobs}, [0.05])
    assert xs[0] == pytest.approx(step, abs=5e-8)


def test_yogi_changes_v_by_a_bounded_amount() -> None:
    deltas = [0.05, -0.2, 0.01, 0.0, 0.3]
    _, vs = steps("fedyogi", {}, deltas)
    for before, after, delta in zip([1e-6, *vs], vs, deltas, strict=False):
        assert abs(after - before) <= 0.01 * delta**2 * (1 + 1e-12)


def test_adagrad_shrinks_like_one_over_root_round() -> None:
    xs, _ = steps("fedadagrad", {"server_lr": 0.1, "tau": 1e-6}, [0.05] * 100)
    assert xs[99] - xs[98] == pytest.approx(0.1 / 10, rel=1e-4)


@pytest.mark.parametrize("name", ["fedadam", "fedyogi", "fedadagrad"])
def test_a_step_has_the_sign_of_the_first_moment(name: str) -> None:
    strategy, banks = STRATEGIES.create(name, {}), new_banks()
    before = strategy.init(new_adapter(zero_b=False), infos(banks), seed=1)
    after = play(strategy, before, banks)
    for tensor_name, x in after.adapter.tensors.items():
        moved = x - before.adapter.tensors[tensor_name]
        assert torch.equal(moved.sign(), after.slots[f"m/{tensor_name}"].sign())


@pytest.mark.parametrize("name", ["fedadam", "fedyogi", "fedadagrad"])
def test_a_large_tau_gives_fedavgm(name: str) -> None:
    """With server_lr = tau and beta_1 = .9 the step is m; FedAvgM's is m / (1 - beta_1)."""
    banks, ends = new_banks(), []
    adaptive = {"tau": 1e8, "server_lr": 1e8, "beta_1": 0.9, "v0": 0}
    for kind, knobs in ((name, adaptive), ("fedavgm", {"beta": 0.9, "server_lr": 0.1})):
        strategy = STRATEGIES.create(kind, knobs)
        ends.append(play(strategy, strategy.init(new_adapter(), infos(banks), seed=1), banks, num_rounds=3).adapter)
    assert all(close(ends[0].tensors[n], ends[1].tensors[n], 1e-6) for n in ends[0].tensors)
