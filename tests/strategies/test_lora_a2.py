from __future__ import annotations

import pytest
import torch

from fedsim.core.messages import TrainJob
from fedsim.strategies import STRATEGIES, LocalContext
from fedsim.strategies.lora_a2 import chosen
from tests.strategies.toy import HEAD, Local, exchange_all, infos, new_adapter, new_banks, play

TWELVE = Local(lr=0.01, num_steps=12)  # two of them score


def setup(knobs: dict | None = None, ranks=(1, 2, 2)):
    strategy, banks = STRATEGIES.create("lora_a2", knobs or {}), new_banks()
    return strategy, banks, strategy.init(new_adapter(), infos(banks, list(ranks)), seed=1)


def columns(delta) -> int:
    """Ranks with a change, over all modules."""
    return sum(int(t.any(0).sum() if name.endswith(".B") else t.any(1).sum()) for name, t in delta.items())


@pytest.mark.parametrize("local", [TWELVE, Local(num_steps=3)])
def test_a_bank_sends_no_more_than_its_ranks_times_the_modules(local: Local) -> None:
    strategy, banks, state = setup()
    kept: dict = {}
    for factor in "BABA":
        exchanges = exchange_all(strategy, state, banks, kept, local)
        for exchange, rank in zip(exchanges, (1, 2, 2), strict=True):
            sent = {name: delta for name, delta in exchange.update.delta.items() if name != HEAD}
            assert sent.keys() == {f"q.{factor}", f"v.{factor}"}
            assert 0 < columns(sent) <= rank * 2
        state = strategy.aggregate(state, exchanges)


def test_ranks_are_chosen_over_all_modules_by_the_norm_of_their_change() -> None:
    """Scores |dB_i| |A_i|: q has 1 * 2 and 3 * 1, v has 2 * 2 and 0 * 9; the best two are q's second and v's first."""
    start = {
        "q.A": torch.tensor([[2.0, 0.0], [0.0, 1.0]]),
        "q.B": torch.ones(3, 2),
        "v.A": torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 9.0]]),
        "v.B": torch.ones(1, 2),
    }
    changed = {
        "q.B": start["q.B"] + torch.tensor([[1.0, 3.0], [0.0, 0.0], [0.0, 0.0]]),
        "v.B": start["v.B"] + torch.tensor([[-2.0, 0.0]]),
    }
    job = TrainJob(0, "bank0", new_adapter(), slots={"rank": torch.tensor([1.0])})
    masks = chosen(changed, LocalContext(job, start, {}, lr=0.1, num_steps=1))
    assert masks["q.B"].tolist() == [[False, True]]
    assert masks["v.B"].tolist() == [[True, False]]


def test_training_starts_over_after_scoring_and_holds_the_other_ranks() -> None:
    """Step 2 of 12 restores the start and drops its gradient; later steps keep unchosen columns in place."""
    strategy, _, state = setup()
    rule, job = strategy.rule(), strategy.configure(state, "bank0", seed=1)
    start = job.adapter.tensors
    context = LocalContext(job, start, {}, lr=0.1, num_steps=12, step=2)
    params = {name: torch.ones_like(start[name]) for name in ("q.B", "v.B")}
    params["q.B"][:, 1] = 5
    grads = {name: torch.ones_like(param) for name, param in params.items()}
    rule.correct(params, grads, context)
    assert all(torch.equal(params[name], start[name]) for name in params)
    assert not any(grad.any() for grad in grads.values())
    masks = context.scratch
    assert sum(int(mask.sum()) for mask in masks.values()) == 2
    later = LocalContext(job, start, {}, lr=0.1, num_steps=12, step=3, scratch=masks)
    params = {name: torch.ones_like(start[name]) for name in params}
    grads = {name: torch.ones_like(param) for name, param in params.items()}
    rule.correct(params, grads, later)
    for name, mask in masks.items():
        assert torch.equal(params[name] != 0, mask.expand_as(params[name]))
        assert torch.equal(grads[name] != 0, mask.expand_as(grads[name]))


def test_b_learns_five_times_as_fast() -> None:
    rule = STRATEGIES.create("lora_a2", {}).rule()
    assert [rule.lr_scale(name) for name in ("q.A", "q.B", HEAD)] == [1, 5, 1]


def test_the_frozen_factor_is_bitwise_constant() -> None:
    strategy, banks, state = setup()
    for still in ("A", "B", "A"):
        after = play(strategy, state, banks, local=TWELVE)
        for module in ("q", "v"):
            name = f"{module}.{still}"
            assert torch.equal(after.adapter.tensors[name], state.adapter.tensors[name])
        state = after
