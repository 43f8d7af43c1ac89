from __future__ import annotations

import numpy as np
import pytest
import torch

from fedsim.core.adapter import AdapterState
from fedsim.core.messages import Exchange, ServerState, Update
from fedsim.strategies import STRATEGIES, Strategy
from fedsim.strategies.fedbuff import Clock
from tests.strategies.toy import infos, new_adapter, new_banks, play, scalar_adapter, scalar_bank


def head(adapter: AdapterState) -> float:
    return float(adapter.tensors["head.x"])


def arrive(strategy: Strategy, state: ServerState, changes: dict[str, float]) -> list[Exchange]:
    """Exchanges of these banks, each of which moves what it was sent by a number."""
    jobs = {bank: strategy.configure(state, bank, 5) for bank in changes}
    deltas = {
        bank: {"head.x": torch.full_like(job.adapter.tensors["head.x"], changes[bank])} for bank, job in jobs.items()
    }
    return [Exchange(jobs[bank], Update(bank, deltas[bank], 1, 1)) for bank in changes]


def test_the_clock_by_hand() -> None:
    """Banks 0, 1, 2 take 1, 2.5 and 4; buffers of two. 0 arrives at 1 and waits, 1 at 2.5: version 1. They start again;

    0 arrives at 3.5, 2 at 4: version 2. 0 and 2 start again; 0 and 1 both arrive at 5: version 3.
    """
    clock = Clock(2, 3, (1.0, 2.5, 4.0), (0, 1, 2))
    assert [clock.pulled(version) for version in range(3)] == [{0: 0, 1: 0}, {0: 1, 2: 0}, {0: 2, 1: 1}]
    assert [clock.flying(version) for version in range(3)] == [{0}, {1}, {2}]


def test_who_has_been_idle_longest_starts_when_not_all_may_train_at_once() -> None:
    clock = Clock(2, 1, (1.0,) * 5, (4, 2, 0, 1, 3))
    assert [list(clock.pulled(version)) for version in range(5)] == [[4, 2], [0, 1], [3, 4], [2, 0], [1, 3]]
    for version in range(5):
        assert set(clock.pulled(version).values()) == {version}, "one after the other, each from the newest"
        assert not clock.flying(version)


def test_an_update_counts_by_its_staleness() -> None:
    """s(0), s(1), s(2) = 1, 2^-1/2, 3^-1/2. By hand, three banks of one buffer with changes of 1, 1 and 1."""
    strategy = STRATEGIES.create("fedbuff", {"buffer_size": 2, "slowdown": 8})
    banks = infos([scalar_bank(name, 1, 0) for name in "abc"])
    state = strategy.init(scalar_adapter(), banks, seed=5)
    expected, weights = 0.0, []
    for _ in range(12):
        asked = strategy.arrivals(state)
        stale = [state.round - strategy._arrived(state)[bank] for bank in asked]
        weights += [(1 + age) ** -0.5 for age in stale]
        expected += sum(weights[-2:]) / 2
        state = strategy.aggregate(state, arrive(strategy, state, dict.fromkeys(asked, 1.0)))
        assert head(state.adapter) == pytest.approx(expected, rel=1e-6)
    assert min(weights) < 1 == max(weights), "some came late"
    assert len(weights) == 24, "as many updates are in as arrived"


def test_a_late_bank_is_sent_the_version_it_pulled() -> None:
    strategy = STRATEGIES.create("fedbuff", {"buffer_size": 2, "slowdown": 8})
    banks = infos([scalar_bank(name, 1, 0) for name in "abc"])
    state, past = strategy.init(scalar_adapter(), banks, seed=5), []
    for round_ in range(12):
        past.append(head(state.adapter))
        asked = strategy.arrivals(state)
        for bank in asked:
            version = strategy._arrived(state)[bank]
            assert head(strategy.configure(state, bank, 5).adapter) == past[version]
        state = strategy.aggregate(state, arrive(strategy, state, dict.fromkeys(asked, 7.0 * round_)))
        assert len({name.split("/")[1] for name in state.slots if name.startswith("version")}) <= 2, (
            "no version is kept for long"
        )


def test_no_delay_and_a_buffer_of_all_is_fedavg_with_equal_weights() -> None:
    banks, ends = new_banks(sizes=(7, 7, 7)), []
    for name, knobs in (("fedbuff", {"buffer_size": len(banks), "slowdown": 1}), ("fedavg", {})):
        strategy = STRATEGIES.create(name, knobs)
        ends.append(play(strategy, strategy.init(new_adapter(), infos(banks), seed=1), banks, num_rounds=3).adapter)
    for name, tensor in ends[0].tensors.items():
        assert torch.allclose(tensor, ends[1].tensors[name], atol=1e-7)


def test_one_bank_moves_a_release_by_at_most_its_clipped_update_over_k() -> None:
    """No bank is twice in a buffer, whatever the paces, and s <= 1: |change| <= server_lr C / K."""
    for seed in range(30):
        draw = np.random.default_rng(seed)
        clock = Clock(3, 4, tuple(draw.uniform(1, 9, 6)), tuple(draw.permutation(6)))
        assert all(len(clock.pulled(version)) == 3 for version in range(30))
    strategy = STRATEGIES.create("fedbuff", {"buffer_size": 3, "server_lr": 0.5, "slowdown": 20})
    state = strategy.init(scalar_adapter(), infos([scalar_bank(name, 1, 0) for name in "abcde"]), seed=2)
    for _ in range(10):
        asked = strategy.arrivals(state)
        others = dict.fromkeys(asked[1:], 0.3)
        ends = [strategy.aggregate(state, arrive(strategy, state, {asked[0]: x, **others})) for x in (1.0, -1.0)]
        moved = head(ends[0].adapter) - head(ends[1].adapter)  # the first bank's update of norm C = 1, or its opposite
        assert abs(moved) <= 2 * 0.5 / 3 + 1e-6
        state = ends[0]
