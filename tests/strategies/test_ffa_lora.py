from __future__ import annotations

import torch

from fedsim.strategies import STRATEGIES
from tests.strategies.toy import HEAD, Local, close, exchange_all, infos, new_adapter, new_banks, play


def test_a_never_moves_and_is_never_sent() -> None:
    strategy, banks = STRATEGIES.create("ffa_lora", {}), new_banks()
    first = strategy.init(new_adapter(), infos(banks), seed=1)
    exchanges = exchange_all(strategy, first, banks, {}, Local())
    assert all(exchange.update.delta.keys() == {"q.B", "v.B", HEAD} for exchange in exchanges)
    last = play(strategy, first, banks, num_rounds=3)
    assert torch.equal(last.adapter.tensors["q.A"], first.adapter.tensors["q.A"])
    assert last.adapter.tensors["q.B"].norm() > 0


def test_a_bank_of_rank_1_shares_the_first_row_and_adds_a_zero_column() -> None:
    strategy, banks = STRATEGIES.create("ffa_lora", {}), new_banks((3, 1))
    state = strategy.init(new_adapter(scaling=2.0), infos(banks, ranks=[1, 2], scalings=[4.0, 2.0]), seed=1)
    jobs = [strategy.configure(state, bank.name, seed=1) for bank in banks]
    assert torch.equal(jobs[0].adapter.tensors["q.A"], state.adapter.tensors["q.A"][:1])
    small, large = exchange_all(strategy, state, banks, {}, Local())
    b = strategy.aggregate(state, [small, large]).adapter.tensors["q.B"]
    by_hand = torch.cat([0.75 * 4.0 / 2.0 * small.update.delta["q.B"], torch.zeros(3, 1)], 1)
    assert close(b, by_hand + 0.25 * large.update.delta["q.B"])
