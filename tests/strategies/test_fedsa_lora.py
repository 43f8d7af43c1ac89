from __future__ import annotations

import torch

from fedsim.strategies import STRATEGIES
from tests.strategies.toy import HEAD, Local, close, exchange_all, infos, new_adapter, new_banks, play


def test_neither_b_nor_head_leaves_a_bank() -> None:
    strategy, banks, kept = STRATEGIES.create("fedsa_lora", {}), new_banks(), {}
    state = strategy.init(new_adapter(), infos(banks), seed=1)
    for _ in range(2):
        exchanges = exchange_all(strategy, state, banks, kept, Local())
        assert all(exchange.update.delta.keys() == {"q.A", "v.A"} for exchange in exchanges)
        state = strategy.aggregate(state, exchanges)
    assert torch.equal(state.adapter.tensors["q.B"], torch.zeros(3, 2, dtype=torch.float64))


def test_a_bank_goes_on_from_the_shared_a_and_its_own_b_and_head() -> None:
    strategy, banks, kept = STRATEGIES.create("fedsa_lora", {}), new_banks(), {}
    state = play(strategy, strategy.init(new_adapter(), infos(banks), seed=1), banks, kept=kept)
    job = strategy.configure(state, "bank1", seed=1)
    start = strategy.rule().start(job, kept["bank1"])
    assert torch.equal(start.tensors["q.A"], state.adapter.tensors["q.A"])
    for name in ("q.B", HEAD):
        assert torch.equal(start.tensors[name], kept["bank1"][f"personal/{name}"])
        assert not torch.equal(start.tensors[name], kept["bank0"][f"personal/{name}"])
    newcomer = strategy.rule().start(job, {})
    assert not newcomer.tensors["q.B"].any()


def test_shared_a_is_the_mean_of_the_banks_a() -> None:
    strategy, banks = STRATEGIES.create("fedsa_lora", {}), new_banks()
    state = strategy.init(new_adapter(zero_b=False), infos(banks), seed=1)
    exchanges = exchange_all(strategy, state, banks, {}, Local())
    after = strategy.aggregate(state, exchanges).adapter.tensors["q.A"]
    mean = sum(e.update.num_examples / 18 * e.update.delta["q.A"] for e in exchanges)
    assert close(after, state.adapter.tensors["q.A"] + mean)
    assert strategy.rule().personal
