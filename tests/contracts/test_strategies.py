"""What every method in the registry must do. A new method is covered by its registry line."""

from __future__ import annotations

import inspect
import pickle
import re
from collections.abc import Sequence
from dataclasses import fields, replace

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from fedsim.core.adapter import AdapterState
from fedsim.core.messages import Exchange, ServerState
from fedsim.engine.checkpoint import require_fits
from fedsim.engine.sums import Tree, mean, term
from fedsim.strategies import STRATEGIES, Strategy
from fedsim.strategies.fedavg import FedAvg
from tests.strategies.toy import (
    SHAPES,
    Local,
    ToyBank,
    change,
    ended,
    exchange_all,
    infos,
    new_adapter,
    new_banks,
    play,
    scalar_adapter,
    scalar_bank,
)

Setup = tuple[Strategy, ServerState, list[ToyBank]]


def setup(name: str, same: bool = False) -> Setup:
    """Three banks of unequal size, and of unequal rank and scaling where the method allows it; float32 as in a run."""
    strategy = STRATEGIES.create(name, {})
    banks = new_banks(dtype=torch.float32, same=same)
    mixed = {"ranks": [1, 2, 2], "scalings": [4.0, 2.0, 3.0]} if strategy.sheet.mixed_ranks and not same else {}
    state = strategy.init(new_adapter(dtype=torch.float32), infos(banks, **mixed), seed=17)
    return strategy, state, banks


def flat(state: ServerState) -> dict[str, Tensor]:
    """Every tensor of a state under one name each, as a checkpoint writes them."""
    named = {f"adapter/{name}": tensor for name, tensor in state.adapter.tensors.items()}
    for number, below in enumerate(state.frozen):
        named |= {f"frozen/{number}/{name}": tensor for name, tensor in below.tensors.items()}
    return named | {f"slots/{name}": tensor for name, tensor in state.slots.items()}


def reload(state: ServerState) -> ServerState:
    """The state after a trip through one safetensors file and the numbers beside it."""
    loaded = load(save(flat(state)))

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in loaded.items() if name.startswith(prefix)}

    def adapter(prefix: str, like: AdapterState) -> AdapterState:
        return AdapterState(part(prefix), like.rank, like.scaling)

    frozen = tuple(adapter(f"frozen/{number}/", below) for number, below in enumerate(state.frozen))
    return replace(state, adapter=adapter("adapter/", state.adapter), frozen=frozen, slots=part("slots/"))


def equal(left: ServerState, right: ServerState) -> bool:
    a, b = flat(left), flat(right)
    same = a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    return same and left.round == right.round and left.banks == right.banks


every_method = pytest.mark.parametrize("name", list(STRATEGIES))


@every_method
def test_three_rounds_with_unequal_banks_run(name: str) -> None:
    strategy, state, banks = setup(name)
    kept: dict = {}
    first, names = state, state.adapter.tensors.keys()
    for number in range(3):
        state = play(strategy, state, banks, kept=kept)
        assert state.round == number + 1
        require_fits(state, first)  # a resume asks for it: names and sizes stay, but for ranks
    for tensor in flat(state).values():
        assert tensor.dtype == torch.float32
        assert tensor.device.type == "cpu"
        assert tensor.is_contiguous()  # the same bits after a checkpoint: strides change the order of sums
        assert torch.isfinite(tensor).all()
    assert strategy.serve(state).tensors.keys() == names


@every_method
def test_identical_banks_and_a_single_bank_run(name: str) -> None:
    strategy, state, banks = setup(name, same=True)
    play(strategy, state, banks, num_rounds=2)
    play(strategy, state, banks[:1], num_rounds=2)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if STRATEGIES[name].sheet.sums_only])
def test_a_method_that_needs_only_sums_is_served_by_their_mean(name: str) -> None:
    """What ``engine.uplink.SummingUplink`` gives it, in three rounds of unequal banks."""
    strategy, banks, kept = STRATEGIES.create(name, {}), new_banks(dtype=torch.float32), {}
    state = strategy.init(new_adapter(dtype=torch.float32), infos(banks), seed=17)
    for _ in range(3):
        exchanges = exchange_all(strategy, state, banks, kept, Local())
        equal_weights = strategy.sheet.equal_weights
        weights = [1.0 if equal_weights else float(exchange.update.num_examples) for exchange in exchanges]
        tree = Tree()
        for place, (exchange, weight) in enumerate(zip(exchanges, weights, strict=True)):
            tree.add((0, place), term(exchange.update, weight))
        delta, slots = mean(tree.total(), sum(weights))
        total = sum(exchange.update.num_examples for exchange in exchanges)
        whole = replace(exchanges[0].update, delta=delta, slots=slots, num_examples=total)
        one = flat(strategy.aggregate(state, [replace(exchanges[0], update=whole)]))
        state = strategy.aggregate(state, exchanges)
        for key, tensor in flat(state).items():
            assert torch.allclose(one[key], tensor, atol=2e-6), key


exact_methods = pytest.mark.parametrize("name", [n for n in STRATEGIES if STRATEGIES[n].sheet.exact == "yes"])


@exact_methods
def test_exact_means_that_the_next_model_is_the_mean_of_the_banks_models(name: str) -> None:
    """Weight change of adapter and frozen adapters together, in float64, over three rounds of unequal banks."""
    strategy = STRATEGIES.create(name, {})
    banks = new_banks()
    mixed = {"ranks": [1, 2, 2], "scalings": [4.0, 2.0, 3.0]} if strategy.sheet.mixed_ranks else {}
    state = strategy.init(new_adapter(), infos(banks, **mixed), seed=17)
    shares = [bank.num_examples / sum(bank.num_examples for bank in banks) for bank in banks]
    for _ in range(3):
        exchanges = exchange_all(strategy, state, banks, {}, Local())
        models = [(ended(strategy, exchange), exchange.job.frozen) for exchange in exchanges]
        state = strategy.aggregate(state, exchanges)
        for module in SHAPES:
            mean = sum(p * change(adapter, frozen, module) for p, (adapter, frozen) in zip(shares, models, strict=True))
            served = change(strategy.serve(state), state.frozen, module)
            assert mean.norm() > 1e-3
            assert (served - mean).norm() < 1e-12 * mean.norm()


@every_method
def test_inputs_are_not_mutated(name: str) -> None:
    strategy, state, banks = setup(name)
    kept: dict = {}
    for _ in range(2):
        before = pickle.dumps(state)
        exchanges = exchange_all(strategy, state, banks, kept, Local())
        given = pickle.dumps(exchanges)
        after = strategy.aggregate(state, exchanges)
        assert pickle.dumps(state) == before
        assert pickle.dumps(exchanges) == given
        state = after


@every_method
def test_aggregate_depends_on_its_arguments_only(name: str) -> None:
    strategy, state, banks = setup(name)
    exchanges = exchange_all(strategy, state, banks, {}, Local())
    shuffled = sorted([exchanges[1], exchanges[2], exchanges[0]], key=lambda exchange: exchange.job.bank)
    again, _, _ = setup(name)
    assert equal(strategy.aggregate(state, exchanges), again.aggregate(state, shuffled))


@every_method
def test_state_survives_a_checkpoint(name: str) -> None:
    strategy, state, banks = setup(name)
    state = play(strategy, state, banks, num_rounds=2)
    restored = reload(state)
    assert equal(state, restored)
    assert equal(play(strategy, state, banks), play(strategy, restored, banks))


@every_method
def test_what_crosses_to_a_bank_pickles(name: str) -> None:
    strategy, state, banks = setup(name)
    rule = pickle.loads(pickle.dumps(strategy.rule()))
    assert type(rule) is type(strategy.rule())
    for exchange in exchange_all(strategy, state, banks, {}, Local()):
        assert pickle.loads(pickle.dumps(exchange)).update.bank == exchange.update.bank


@every_method
def test_a_bank_may_miss_rounds_and_come_late(name: str) -> None:
    strategy, state, banks = setup(name)
    kept: dict = {}
    for present in (banks[:2], banks[1:], banks):
        state = play(strategy, state, present, kept=kept)
    assert state.round == 3


@every_method
def test_an_update_fits_the_job(name: str) -> None:
    strategy, state, banks = setup(name)
    rule = strategy.rule()
    for exchange in exchange_all(strategy, state, banks, {}, Local()):
        received = exchange.job.adapter.tensors
        for tensor_name, delta in exchange.update.delta.items():
            assert rule.trains(tensor_name, 0)
            assert delta.shape == received[tensor_name].shape
        assert exchange.job.adapter.rank == next(t.shape[0] for n, t in received.items() if n.endswith(".A"))


@every_method
def test_ranks_are_the_banks_own_or_the_global_one(name: str) -> None:
    strategy, state, _ = setup(name)
    for bank in state.banks:
        rank = strategy.configure(state, bank.name, seed=17).adapter.rank
        assert rank in (bank.rank, state.adapter.rank)


@every_method
def test_jobs_are_functions_of_state_bank_and_seed(name: str) -> None:
    strategy, state, _ = setup(name)
    jobs = [strategy.configure(state, "bank0", seed=seed) for seed in (17, 17, 18)]
    left, right = (replace(state, adapter=job.adapter, frozen=job.frozen, slots=job.slots) for job in jobs[:2])
    assert equal(left, right)
    assert jobs[0].seed == jobs[1].seed != jobs[2].seed


@every_method
def test_default_knobs_are_valid_and_unknown_ones_are_not(name: str) -> None:
    config = STRATEGIES.config(name)
    assert config.model_validate(config().model_dump()) == config()
    assert config.model_json_schema()["type"] == "object"
    with pytest.raises(ValueError, match="no_such_knob"):
        config.model_validate({"no_such_knob": 1})


@every_method
def test_the_sheet_is_filled(name: str) -> None:
    sheet = STRATEGIES[name].sheet
    assert all(getattr(sheet, field.name) for field in fields(sheet) if field.type == "str")


@every_method
def test_the_sheet_says_who_has_a_model_of_its_own(name: str) -> None:
    sheet = STRATEGIES[name].sheet
    assert STRATEGIES.create(name, {}).rule().personal == sheet.personal == (sheet.exact == "n/a (personal)")


@pytest.mark.parametrize("name", [name for name in STRATEGIES if not STRATEGIES[name].sheet.needs_factors])
def test_a_model_without_factors_runs(name: str) -> None:
    strategy, banks = STRATEGIES.create(name, {}), [scalar_bank("a", 1.0, 2.0), scalar_bank("b", 1.0, 2.0)]
    state = strategy.init(scalar_adapter(1.5), infos(banks), seed=17)
    after = strategy.serve(play(strategy, state, banks, num_rounds=2))
    assert 0 <= float(after.tensors["head.x"]) <= 2.0


@every_method
def test_the_file_is_short_and_cites_its_source(name: str) -> None:
    module = inspect.getmodule(STRATEGIES[name])
    text = module.__doc__ or ""
    source = STRATEGIES[name].sheet.source
    number = re.match(r"\d{4}\.\d{5}", source)
    assert number is None or number.group() in text
    assert number or source == "baseline"
    assert re.search(r"\bLaws?:", text)
    assert "Deviations" in text
    assert len(inspect.getsource(module).splitlines()) < 150


def test_a_subclass_with_a_mean_of_its_own_does_not_inherit_that_sums_are_enough() -> None:
    """A median, say: it must be given every update."""

    class Median(FedAvg):
        def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
            return state

    class Renamed(FedAvg):
        pass

    assert FedAvg.sheet.sums_only
    assert Renamed.sheet.sums_only
    assert not Median.sheet.sums_only
    assert replace(Median.sheet, sums_only=True) == FedAvg.sheet
