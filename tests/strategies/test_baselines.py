"""local, pooled and zero_shot: what federated methods are compared with."""

from __future__ import annotations

import torch

from fedsim.strategies import STRATEGIES
from tests.strategies.toy import Local, close, exchange_all, infos, loss, new_adapter, new_banks, play, train


def test_local_sends_nothing_and_goes_on_from_its_own_adapter() -> None:
    strategy, banks, kept = STRATEGIES.create("local", {}), new_banks(), {}
    state = strategy.init(new_adapter(), infos(banks), seed=1)
    after = state
    for _ in range(3):
        exchanges = exchange_all(strategy, after, banks, kept, Local())
        assert all(not exchange.update.delta and not exchange.update.slots for exchange in exchanges)
        after = strategy.aggregate(after, exchanges)
    assert after.round == 3
    assert torch.equal(after.adapter.tensors["q.A"], state.adapter.tensors["q.A"])
    assert strategy.rule().personal
    losses = [float(loss(strategy.rule().start(exchanges[0].job, k), (), banks[0])) for k in ({}, kept["bank0"])]
    assert losses[1] < losses[0]


def test_a_local_bank_does_not_depend_on_the_others() -> None:
    strategy, banks, together, alone = STRATEGIES.create("local", {}), new_banks(), {}, {}
    state = strategy.init(new_adapter(), infos(banks), seed=1)
    play(strategy, state, banks, num_rounds=3, kept=together)
    play(strategy, state, banks[1:2], num_rounds=3, kept=alone)
    assert all(torch.equal(alone["bank1"][name], tensor) for name, tensor in together["bank1"].items())


def test_local_banks_train_at_their_own_rank() -> None:
    strategy, banks, kept = STRATEGIES.create("local", {}), new_banks(), {}
    state = strategy.init(new_adapter(), infos(banks, [1, 2, 1]), seed=1)
    play(strategy, state, banks, num_rounds=2, kept=kept)
    assert [len(kept[bank.name]["personal/q.A"]) for bank in banks] == [1, 2, 1]


def test_pooled_is_central_training() -> None:
    """One bank, 3 rounds of 4 steps: with plain SGD the same as 12 steps in one go."""
    strategy, banks = STRATEGIES.create("pooled", {}), new_banks((7,))
    state = strategy.init(new_adapter(), infos(banks), seed=1)
    rounds = play(strategy, state, banks, num_rounds=3, local=Local(num_steps=4)).adapter
    job = strategy.configure(state, "bank0", seed=1)
    central, _ = train(strategy.rule(), job, {}, banks[0], Local(num_steps=12))
    assert all(close(rounds.tensors[n] - t, central.delta[n]) for n, t in state.adapter.tensors.items())


def test_zero_shot_trains_and_sends_nothing() -> None:
    strategy, banks = STRATEGIES.create("zero_shot", {}), new_banks()
    state = strategy.init(new_adapter(), infos(banks), seed=1)
    assert not any(strategy.rule().trains(name, 0) for name in state.adapter.tensors)
    after = play(strategy, state, banks, num_rounds=2)
    assert after.round == 2
    assert after.adapter is state.adapter
