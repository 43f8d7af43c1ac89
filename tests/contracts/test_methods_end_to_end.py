"""Every registered method in a whole run with the real trainer: three unequal banks, Poisson batches, unequal ranks.

A new method is covered by its registry line and its file in ``scenarios/methods``. What is compared with a method's
sheet: which factors travel, and how many bytes that is.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedsim.build.load import load_scenario
from fedsim.build.prepare import codec
from fedsim.core import seeds
from fedsim.core.adapter import Tensors, factor, modules, product
from fedsim.core.errors import ScenarioError
from fedsim.core.messages import Exchange
from fedsim.strategies import STRATEGIES, Strategy
from tests.smoke import SCENARIOS, Played, material, play, played

every_scenario = pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
trained_scenarios = pytest.mark.parametrize(
    "path", [path for path in SCENARIOS if path.stem != "zero_shot"], ids=lambda path: path.stem
)


def strategy_of(run: Played) -> Strategy:
    return STRATEGIES.create(run.scenario.strategy.kind, run.scenario.strategy.knobs)


def named_kinds(words: str) -> set[str]:
    """The factors that a line of a sheet names; a language model has no head."""
    return set(re.findall(r"\b[ABR]\b", words))


def kinds(tensors: Tensors) -> set[str]:
    return {factor(name) for name in tensors}


def size(tensors: Tensors) -> int:
    """Bytes of the values as float32."""
    return 4 * sum(tensor.numel() for tensor in tensors.values())


def encoded_size(strategy: Strategy, tensors: Tensors) -> int:
    return codec(strategy, ()).compress(tensors, {}, seeds.generator(0, "test"))[0].num_bytes if tensors else 0


def same(left: Tensors, right: Tensors) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def all_finite(tensors: Tensors) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def test_every_method_has_a_short_smoke_scenario_of_its_name() -> None:
    assert set(STRATEGIES) <= {path.stem for path in SCENARIOS}
    for path in SCENARIOS:
        assert path.stem.startswith(load_scenario(path).strategy.kind)
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 15


@pytest.mark.parametrize("kind", STRATEGIES)
def test_banks_have_unequal_ranks_where_the_method_allows_it(kind: str) -> None:
    (path,) = (path for path in SCENARIOS if path.stem == kind)
    assert (load_scenario(path).lora.bank_ranks is not None) == STRATEGIES[kind].sheet.mixed_ranks


@trained_scenarios
def test_all_numbers_are_finite_and_the_training_loss_falls(path: Path) -> None:
    run = played(path)
    assert len(run.rounds) == run.scenario.num_rounds >= 2
    for row in run.rows:
        metrics = [*row.metrics.values(), *(row.oracle[name] for name in row.oracle)]
        assert all(map(math.isfinite, metrics))
    assert all_finite(run.served.adapter.tensors)
    losses = [row.oracle["loss"] for row in run.rows[1:]]
    assert losses == sorted(losses, reverse=True)


@trained_scenarios
def test_a_run_gives_the_same_bits_twice(path: Path) -> None:
    run, again = played(path), play(path)
    for left, right in zip(run.rounds, again.rounds, strict=True):
        for one, other in zip(left, right, strict=True):
            assert same(one.update.delta, other.update.delta)
            assert same(one.update.slots, other.update.slots)
    assert [row.metrics for row in run.rows] == [row.metrics for row in again.rows]
    assert [[bank.metrics for bank in row.banks] for row in run.rows] == [
        [bank.metrics for bank in row.banks] for row in again.rows
    ]


@trained_scenarios
def test_what_is_sent_up_is_what_the_sheet_says(path: Path) -> None:
    run = played(path)
    strategy, rule = strategy_of(run), strategy_of(run).rule()
    sheet = strategy.sheet
    for round_, exchanges in enumerate(run.rounds):
        for exchange in exchanges:
            update = exchange.update
            trained = {factor(name) for name in exchange.job.adapter.tensors if rule.trains(name, round_)}
            expected = set() if sheet.up == "nothing" else trained & (named_kinds(sheet.up) or trained)
            assert kinds(update.delta) == expected
            assert size(update.slots) == (size(update.delta) if "controls" in sheet.up else 0)
            assert update.bytes_up == encoded_size(strategy, update.delta) + size(update.slots)
            assert strategy.codecs != ("float32",) or update.bytes_up == size(update.delta) + size(update.slots)


@trained_scenarios
def test_what_is_sent_down_again_is_what_the_sheet_says(path: Path) -> None:
    """A bank that has taken part before is sent what has changed since, and pays for that alone."""
    run = played(path)
    strategy = strategy_of(run)
    steady = "; ".join(part for part in strategy.sheet.down.split(";") if "once" not in part)
    last: dict[str, Exchange] = {}
    for new in (exchange for exchanges in run.rounds for exchange in exchanges):
        old, last[new.job.bank] = last.get(new.job.bank), new
        if old is None:
            continue
        changed, others = news(old, new)
        if not steady:
            assert not changed
        elif named_kinds(steady):
            assert kinds(changed) <= named_kinds(steady)
        else:  # "the factor that changed"
            assert len(kinds(changed)) == 1
        assert new.update.bytes_down == encoded_size(strategy, changed) + size(others)


def news(old: Exchange, new: Exchange) -> tuple[Tensors, Tensors]:
    """What of the adapter, and what of frozen adapters and slots, differs from the bank's last job."""
    adapter = changes(old.job.adapter.tensors, new.job.adapter.tensors)
    frozen: dict[str, torch.Tensor] = {}
    for index, below in enumerate(new.job.frozen):
        known = old.job.frozen[index].tensors if index < len(old.job.frozen) else {}
        frozen |= {f"{index}/{name}": tensor for name, tensor in changes(known, below.tensors).items()}
    return adapter, {**frozen, **changes(old.job.slots, new.job.slots)}


def changes(old: Tensors, new: Tensors) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in new.items() if name not in old or not torch.equal(tensor, old[name])}


@every_scenario
def test_the_global_adapter_is_exported_whole(path: Path, tmp_path: Path) -> None:
    run = played(path)
    served, frozen = run.served.adapter, run.served.frozen
    material("causal_lm").model.export(tmp_path, served, frozen, run.scenario.lora)
    found = load_file(tmp_path / "adapter_model.safetensors")
    for module in modules(served.tensors):
        a, b = (found[f"base_model.model.{module}.lora_{kind}.weight"].double() for kind in "AB")
        whole = sum((product(below, module) for below in frozen), product(served, module))
        torch.testing.assert_close(b @ a, whole, rtol=1e-5, atol=1e-6)


@every_scenario
def test_with_dp_a_method_trains_or_is_refused_with_the_reason(path: Path) -> None:
    """On an encoder, so that a head is clipped and noised with the factors."""
    changes = [
        "num_rounds=1",
        "lora.target_modules=[query, value]",
        "privacy={kind: dp_sgd, noise_multiplier: 0.8, max_grad_norm: 0.5, dp_delta: 1e-2}",
    ]
    reason = STRATEGIES[load_scenario(path).strategy.kind].sheet.dp
    if reason != "yes":
        with pytest.raises(ScenarioError, match=re.escape(reason)):
            load_scenario(path, changes)
        return
    run = play(path, changes, "sequence_classification")
    trains = path.stem != "zero_shot"
    assert len(run.rounds) == trains
    sent = {exchange.job.bank for exchanges in run.rounds for exchange in exchanges}
    waits = STRATEGIES[run.scenario.strategy.kind].sheet.asynchronous
    for bank in run.rows[-1].banks:
        assert (0 < bank.epsilon < math.inf) == (bank.bank in sent if waits else trains)
    for exchange in (exchange for exchanges in run.rounds for exchange in exchanges):
        assert exchange.update.spend is not None
        assert exchange.update.spend.num_steps == exchange.update.num_steps
        delta = exchange.update.delta
        assert all_finite(delta)
        assert kinds({name: tensor for name, tensor in delta.items() if tensor.any()}) == kinds(delta)
