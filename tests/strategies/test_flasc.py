from __future__ import annotations

import pytest
import torch

from fedsim.core.adapter import flatten
from fedsim.strategies import STRATEGIES
from fedsim.strategies.flasc import largest
from tests.strategies.toy import HEAD, Local, close, exchange_all, infos, new_adapter, new_banks, play

NUM_VALUES = 2 * 4 + 3 * 2 + 2 * 3 + 5 * 2 + 2 * 3  # q.A q.B v.A v.B head: 36
DENSE = {"density_down": 1.0, "density_up": 1.0, "server_optimizer": "sgd", "server_lr": 1.0}


def setup(knobs: dict, sizes=(5, 11, 2)):
    strategy, banks = STRATEGIES.create("flasc", knobs), new_banks(sizes)
    return strategy, banks, strategy.init(new_adapter(zero_b=False), infos(banks), seed=1)


def support(tensors) -> int:
    return int(flatten(tensors).count_nonzero())


def test_density_1_with_sgd_is_fedavg_with_equal_weights() -> None:
    strategy, banks, state = setup(DENSE)
    fedavg, equal_banks = STRATEGIES.create("fedavg", {}), new_banks((4, 4, 4))
    left = play(strategy, state, banks, num_rounds=2).adapter
    right = play(fedavg, fedavg.init(state.adapter, infos(equal_banks), seed=1), equal_banks, num_rounds=2).adapter
    assert all(close(left.tensors[name], right.tensors[name]) for name in left.tensors)


def test_exactly_k_values_travel_each_way() -> None:
    strategy, banks, state = setup({"density_down": 0.25, "density_up": 0.1})
    for exchange in exchange_all(strategy, state, banks, {}, Local()):
        assert support(exchange.job.adapter.tensors) == NUM_VALUES // 4
        assert support(exchange.update.delta) == 3  # floor(3.6)


def test_training_is_dense_from_the_masked_start() -> None:
    """With everything sent up, values that were not downloaded change too."""
    strategy, banks, state = setup({"density_down": 0.25, "density_up": 1.0})
    (one, *_) = exchange_all(strategy, state, banks, {}, Local())
    missing = flatten(one.job.adapter.tensors) == 0
    assert flatten(one.update.delta)[missing].count_nonzero() > 10


def test_the_largest_values_are_sent_and_ties_go_to_the_lower_index() -> None:
    tensors = {"a.A": torch.tensor([[1.0, -3.0, 2.0]]), "a.B": torch.tensor([[2.0], [2.0], [0.0]])}
    mask = largest(tensors, 0.5)
    assert mask["a.A"].tolist() == [[False, True, True]]
    assert mask["a.B"].tolist() == [[True], [False], [False]]


def test_the_mask_is_a_function_of_the_servers_values() -> None:
    strategy, banks, state = setup({})
    sent = [strategy.configure(state, bank.name, seed=seed).adapter for seed, bank in enumerate(banks)]
    assert all(torch.equal(sent[0].tensors[name], other.tensors[name]) for other in sent for name in sent[0].tensors)
    kept = flatten(sent[0].tensors) != 0
    values = flatten(state.adapter.tensors).abs()
    assert values[kept].min() >= values[~kept].max()


def test_serve_is_what_the_next_round_would_send() -> None:
    strategy, banks, state = setup({})
    state = play(strategy, state, banks)
    served, sent = strategy.serve(state), strategy.configure(state, "bank0", seed=1).adapter
    assert all(torch.equal(served.tensors[name], sent.tensors[name]) for name in served.tensors)


def test_adamw_is_pytorchs() -> None:
    strategy, banks, state = setup({"server_lr": 0.05, "weight_decay": 0.1})
    params = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in state.adapter.tensors.items()}
    reference = torch.optim.AdamW(list(params.values()), lr=0.05, weight_decay=0.1)
    for _ in range(3):
        exchanges = exchange_all(strategy, state, banks, {}, Local())
        for name, param in params.items():
            param.grad = -sum(exchange.update.delta[name] for exchange in exchanges) / 3
        reference.step()
        state = strategy.aggregate(state, exchanges)
        assert all(close(state.adapter.tensors[name], param.detach(), 1e-10) for name, param in params.items())


def test_client_freeze_changes_only_what_was_sent_down() -> None:
    strategy, banks, state = setup({"mode": "client_freeze", "density_up": 1.0})
    state = play(strategy, state, banks)  # round 0 is dense
    for exchange in exchange_all(strategy, state, banks, {}, Local()):
        sent = flatten(exchange.job.adapter.tensors) != 0
        assert sent.sum() == NUM_VALUES // 4
        assert not flatten(exchange.update.delta)[~sent].any()
        assert flatten(exchange.update.delta)[sent].any()


@pytest.mark.parametrize("mode", ["client_freeze", "server_freeze"])
def test_round_0_of_the_freezing_modes_is_dense(mode: str) -> None:
    """From B = 0 no B would enter a mask, and nothing could ever train."""
    strategy, banks = STRATEGIES.create("flasc", {"mode": mode}), new_banks()
    state = strategy.init(new_adapter(), infos(banks), seed=1)
    state = play(strategy, state, banks)
    assert state.adapter.tensors["v.B"].any()


def test_server_freeze_fixes_the_mask_after_round_0() -> None:
    strategy, banks, state = setup({"mode": "server_freeze", "density_up": 1.0, "server_lr": 0.5})
    supports = []
    for _ in range(4):
        state = play(strategy, state, banks)
        supports.append(flatten(strategy.configure(state, "bank0", seed=1).adapter.tensors) != 0)
    assert supports[0].sum() == NUM_VALUES // 4
    assert all(torch.equal(supports[0], later) for later in supports[1:])


def test_density_decay_prunes_step_by_step() -> None:
    strategy, banks, state = setup({"density_down": 1.0, "density_decay": 0.5, "decay_every": 2})
    sent = []
    for _ in range(5):
        sent.append(support(strategy.configure(state, "bank0", seed=1).adapter.tensors))
        state = play(strategy, state, banks)
    assert sent == [36, 36, 18, 18, 9]


def test_freeze_a_trains_and_masks_b_and_head_alone() -> None:
    strategy, banks, state = setup({"freeze_a": True})
    (one, *_) = exchange_all(strategy, state, banks, {}, Local())
    assert one.update.delta.keys() == {"q.B", "v.B", HEAD}
    assert torch.equal(one.job.adapter.tensors["q.A"], state.adapter.tensors["q.A"])
    assert torch.equal(play(strategy, state, banks).adapter.tensors["q.A"], state.adapter.tensors["q.A"])


def test_tiers_give_banks_their_own_density_both_ways() -> None:
    strategy, banks, state = setup({"tiers": [0.25, 1.0]})
    exchanges = exchange_all(strategy, state, banks, {}, Local())
    assert [support(exchange.job.adapter.tensors) for exchange in exchanges] == [9, 36, 9]
    assert [support(exchange.update.delta) for exchange in exchanges] == [9, 36, 9]
