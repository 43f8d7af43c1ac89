"""``lora.train_head: false`` with every method."""

from __future__ import annotations

import pickle

import pytest

from fedsim.core.messages import Exchange
from fedsim.strategies import STRATEGIES
from fedsim.strategies.frozen_head import freeze_head
from tests.strategies.toy import HEAD, Local, infos, new_adapter, new_banks, train

TRAINED = [kind for kind in STRATEGIES if kind not in ("zero_shot", "local", "pooled")]


@pytest.mark.parametrize("kind", TRAINED)
def test_no_method_trains_or_sends_the_head_and_its_server_does_without(kind: str) -> None:
    strategy, banks, kept = freeze_head(STRATEGIES.create(kind, {})), new_banks(), {}
    rule = strategy.rule()
    state = strategy.init(new_adapter(), infos(banks), seed=1)
    head = state.adapter.tensors[HEAD]
    for _ in range(3):
        exchanges = []
        for bank in banks:
            job = strategy.configure(state, bank.name, seed=17)
            update, kept[bank.name] = train(rule, job, kept.get(bank.name, {}), bank, Local())
            assert not [name for name in update.delta if name.startswith("head.")]
            exchanges.append(Exchange(job, update))
        state = strategy.aggregate(state, exchanges)
        assert (state.adapter.tensors[HEAD] == head).all()


@pytest.mark.parametrize("kind", TRAINED)
def test_the_rule_travels_and_is_otherwise_the_same(kind: str) -> None:
    rule = STRATEGIES.create(kind, {}).rule()
    frozen = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(freeze_head(STRATEGIES.create(kind, {})))).rule()))
    assert isinstance(frozen, type(rule))
    for round_ in (0, 1):
        for name in ("q.A", "q.B", "q.R"):
            assert frozen.trains(name, round_) == rule.trains(name, round_)
        assert not frozen.trains(HEAD, round_)
    assert type(frozen).correct is type(rule).correct
    assert rule.trains(HEAD, 0), "the method's own is left alone"
