"""Combinations that cannot work together, found before any data is read. With the registered plug-ins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedsim.build.load import check
from fedsim.core.errors import Problem
from fedsim.strategies import STRATEGIES
from tests.build import fake

BASE = {
    "num_rounds": "3",
    "data": "{kind: table, path: loans.csv}",
    "partition": "{kind: iid, num_banks: 4}",
    "model": "{kind: embedded}",
}


def problems(folder: Path, **changed: str) -> list[Problem]:
    path = folder / "f.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in {**BASE, **changed}.items()))
    return check([path])


def shown(found: list[Problem]) -> list[str]:
    return [f"{problem.where.partition('.yaml:')[2]}: {problem.key}: {problem.message}" for problem in found]


def test_the_base_is_fine(tmp_path: Path) -> None:
    assert problems(tmp_path) == []


def test_a_value_codec_comes_last(tmp_path: Path) -> None:
    found = shown(problems(tmp_path, upload="[{kind: affine}, {kind: topk, density: 0.1}]"))
    assert len(found) == 1
    assert found[0].startswith("5:1: upload: codecs [affine, topk]: only the last may be a value codec")
    assert problems(tmp_path, upload="[{kind: topk, density: 0.1}, {kind: affine}]") == []


def test_error_feedback_needs_a_basis_that_stays(tmp_path: Path) -> None:
    upload = "[{kind: topk, density: 0.1, error_feedback: true}]"
    assert shown(problems(tmp_path, upload=upload, strategy="{kind: flexlora}")) == [
        "5:10: upload[0]: strategy 'flexlora' changes what coordinates mean from round to round, so no residual can be "
        "carried over; turn error_feedback off"
    ]
    assert problems(tmp_path, upload=upload, strategy="{kind: fedavg}") == []
    assert problems(tmp_path, upload="[{kind: topk, density: 0.1}]", strategy="{kind: flexlora}") == []


def test_unequal_ranks_need_a_strategy_for_them(tmp_path: Path) -> None:
    lora = "{r: 8, bank_ranks: [4, 8]}"
    able = ", ".join(kind for kind, strategy in STRATEGIES.items() if strategy.sheet.mixed_ranks)
    assert shown(problems(tmp_path, lora=lora)) == [
        f"5:14: lora.bank_ranks: strategy 'fedavg' needs one rank at all banks; with unequal ranks use {able}"
    ]
    assert problems(tmp_path, lora=lora, strategy="{kind: flora}") == []
    assert problems(tmp_path, lora="{r: 8, bank_ranks: [8]}") == []


def test_dp_is_refused_with_the_methods_own_reason(tmp_path: Path) -> None:
    class Leaky(fake.FedAvg):
        sheet = replace(fake.FedAvg.sheet, dp="banks send their rows")

    families = {**fake.FAMILIES, "strategy": fake.family("strategy", leaky=Leaky)}
    text = "num_rounds: 3\ndata: {kind: table, path: x}\nmodel: {kind: embedded}\nstrategy: {kind: leaky}\n"
    path = tmp_path / "f.yaml"
    path.write_text(text + "privacy: {kind: dp_sgd, noise_multiplier: 1.0}\n")
    assert shown(check([path], families)) == [
        "5:11: privacy.kind: strategy 'leaky' cannot train with 'dp_sgd': banks send their rows"
    ]
    path.write_text(text)
    assert check([path], families) == []


def test_a_model_without_a_head_has_none_to_freeze(tmp_path: Path) -> None:
    lora = {"lora": "{r: 8, train_head: false}"}
    assert shown(problems(tmp_path, **lora)) == [
        "5:14: lora.train_head: a causal_lm answers in words and has no head; remove train_head"
    ]
    assert problems(tmp_path, model="{kind: embedded, task: sequence_classification}", **lora) == []


def test_where_banks_send_at_their_own_pace_none_is_sampled(tmp_path: Path) -> None:
    asynchronous = {"strategy": "{kind: fedbuff, concurrency: 4}"}
    assert shown(problems(tmp_path, client_fraction="0.5", **asynchronous)) == [
        "5:1: client_fraction: strategy 'fedbuff' samples no banks: who is ready sends; set its concurrency instead"
    ]
    assert problems(tmp_path, **asynchronous) == []
    central = problems(
        tmp_path, privacy="{kind: dp_bank_central, noise_multiplier: 1.0, dp_delta: 1e-5}", **asynchronous
    )
    assert "its server needs every bank's own update" in shown(central)[0]


@pytest.mark.parametrize("strategy", [kind for kind in STRATEGIES if STRATEGIES[kind].sheet.needs_sgd])
def test_a_method_for_plain_sgd_says_so(strategy: str, tmp_path: Path) -> None:
    message = f"5:1: train: strategy {strategy!r} is valid for optimizer: sgd without momentum only (got "
    section = f"{{kind: {strategy}}}"
    assert message + "adamw)" in shown(problems(tmp_path, train="{}", strategy=section))
    assert message + "momentum 0.9)" in shown(
        problems(tmp_path, train="{optimizer: sgd, momentum: 0.9}", strategy=section)
    )


@pytest.mark.parametrize("strategy", [kind for kind in STRATEGIES if STRATEGIES[kind].sheet.needs_sgd])
def test_a_method_that_divides_by_the_learning_rate_needs_one(strategy: str, tmp_path: Path) -> None:
    section, train = f"{{kind: {strategy}}}", "{{optimizer: sgd, lr: 0.1, lr_schedule: cosine{}}}"
    assert shown(problems(tmp_path, train=train.format(""), strategy=section)) == [
        f"5:34: train.lr_schedule: strategy {strategy!r} divides by the learning rate, which ends at 0; "
        "set min_lr above 0"
    ]
    assert problems(tmp_path, train=train.format(", min_lr: 0.01"), strategy=section) == []
    assert problems(tmp_path, train=train.format("")) == []


def test_a_model_that_is_trained_whole_has_no_factors(tmp_path: Path) -> None:
    model = "{kind: resnet, train: full}"
    for strategy in STRATEGIES:
        found = shown(problems(tmp_path, model=model, strategy=f"{{kind: {strategy}}}", train="{optimizer: sgd}"))
        refused = (
            f"4:23: model.train: strategy {strategy!r} works on LoRA factors, and a model that is trained whole has "
            "none; set train: lora, or use a method such as fedavg"
        )
        assert found == ([refused] if STRATEGIES[strategy].sheet.needs_factors else [])
    assert problems(tmp_path, model="{kind: resnet}", strategy="{kind: flora}") == []


def test_models_of_the_banks_own_are_measured_per_bank(tmp_path: Path) -> None:
    evaluate, message = "{per_bank: false}", "gives every bank a model of its own, which only per_bank: true measures"
    for strategy in STRATEGIES:
        found = shown(problems(tmp_path, evaluate=evaluate, strategy=f"{{kind: {strategy}}}", train="{optimizer: sgd}"))
        refused = f"5:12: evaluate.per_bank: {strategy!r} {message}"
        assert found == ([refused] if STRATEGIES[strategy].sheet.personal else [])
    found = shown(problems(tmp_path, evaluate=evaluate, baselines="[zero_shot, local]"))
    assert found == [f"5:12: evaluate.per_bank: 'local' {message}"]


def test_a_gpu_is_shared_or_whole(tmp_path: Path) -> None:
    found = problems(tmp_path, resources="{gpus_per_client: 1.5}")
    assert shown(found) == [
        "5:13: resources.gpus_per_client: Ray gives an actor a fraction of one GPU or whole GPUs (got 1.5)"
    ]
    assert found[0].exit_code == 4
    assert problems(tmp_path, resources="{gpus_per_client: 2}") == []
    assert problems(tmp_path, resources="{gpus_per_client: 0.25}") == []


def test_a_baseline_is_something_else(tmp_path: Path) -> None:
    found = shown(problems(tmp_path, baselines="[pooled, local]", strategy="{kind: local}"))
    assert found == ["5:21: baselines[1]: 'local' is the scenario's own strategy; there is nothing to compare"]


@pytest.mark.parametrize("kind", ["dp_bank_local", "dp_bank_central", "dp_bank_adaptive"])
def test_a_clipped_update_must_be_all_that_a_bank_sends(kind: str, tmp_path: Path) -> None:
    privacy = f"{{kind: {kind}, noise_multiplier: 1.0, dp_delta: 1e-5}}"
    train = "{optimizer: sgd}"
    assert shown(problems(tmp_path, train=train, privacy=privacy, strategy="{kind: scaffold}")) == [
        f"6:11: privacy.kind: strategy 'scaffold' cannot train with {kind!r}: "
        "banks send more than their update, which nothing protects"
    ]
    assert problems(tmp_path, privacy=privacy) == []


def test_a_server_that_noises_the_mean_sees_nothing_else(tmp_path: Path) -> None:
    privacy = "{kind: dp_bank_central, noise_multiplier: 1.0, dp_delta: 1e-5}"
    (found,) = shown(problems(tmp_path, privacy=privacy, strategy="{kind: flora}"))
    assert "it sees their noisy mean alone" in found
    assert problems(tmp_path, privacy=privacy.replace("central", "local"), strategy="{kind: flora}") == []
    (found,) = shown(problems(tmp_path, privacy=privacy, lora="{r: 8, bank_ranks: [4, 8]}", strategy="{kind: lora_a2}"))
    assert "updates of unequal ranks have no sum" in found


SUMMED = {kind for kind, method in STRATEGIES.items() if method.sheet.sums_only and not method.sheet.sends_slots}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_masked_updates_are_for_methods_that_need_a_sum_alone(strategy: str, tmp_path: Path) -> None:
    changed = {"train": "{optimizer: sgd}", "strategy": f"{{kind: {strategy}}}"}
    found = shown(problems(tmp_path, **changed, secure_aggregation="{kind: secagg_plus}"))
    refused = f"7:22: secure_aggregation.kind: strategy {strategy!r} cannot be summed by 'secagg_plus': "
    reasons = {
        "flasc": "each bank chooses the coordinates that it sends, which have no sum; "
        "set density_up: 1, no tiers, no density_decay",
        "lora_a2": "each bank chooses the coordinates that it sends, which have no sum",
        "local": "it sums nothing",
        "pooled": "it sums nothing",
        "scaffold": "banks send more than their update, on a scale of its own",
        "zero_shot": "it sums nothing",
    }
    if strategy not in SUMMED:
        reasons.setdefault(strategy, "its server needs every bank's own update, and here it sees their sum alone")
    assert found == ([refused + reasons[strategy]] if strategy in reasons else [])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"strategy": "{kind: flasc, density_up: 1, mode: client_freeze}"}, None),
        ({"strategy": "{kind: flasc, density_up: 1, tiers: [0.5, 1]}"}, "no tiers"),
        ({"strategy": "{kind: flasc, density_up: 1, density_decay: 0.9}"}, "no density_decay"),
        ({"strategy": "{kind: flasc, density_up: 1, density_decay: 0.9, mode: client_freeze}"}, None),
        (
            {"strategy": "{kind: ffa_lora}", "lora": "{r: 8, bank_ranks: [4, 8]}"},
            "updates of unequal ranks have no sum",
        ),
        ({"upload": "[{kind: randk, density: 0.1}]"}, None),
        ({"upload": "[{kind: randk, error_feedback: true}]"}, "without error_feedback"),
        ({"upload": "[{kind: topk, density: 0.1}]"}, "coordinates that are the same for all banks"),
        ({"upload": "[{kind: affine}]"}, "sends integers on one grid"),
        ({"download": "[{kind: topk, density: 0.1}]"}, None),
        ({"download": "[{kind: topk, error_feedback: true}]"}, "a residual for each bank sends banks different values"),
        ({"privacy": "{kind: dp_sgd, noise_multiplier: 1, dp_delta: 1e-5}"}, None),
        ({"privacy": "{kind: dp_bank_local, noise_multiplier: 1, dp_delta: 1e-5}"}, None),
        (
            {"privacy": "{kind: dp_bank_central, noise_multiplier: 1, dp_delta: 1e-5}"},
            "the server of 'dp_bank_central' clips every bank's update and adds the noise, and here it sees none",
        ),
    ],
)
def test_what_goes_with_masked_updates(changed: dict[str, str], message: str | None, tmp_path: Path) -> None:
    found = shown(problems(tmp_path, **changed, secure_aggregation="{kind: secagg}"))
    assert len(found) == (message is not None)
    assert message is None or message in found[0]
    assert problems(tmp_path, **changed, secure_aggregation="{kind: none}") == [] or "bank_ranks" in str(changed)


def test_knobs_of_masks_are_checked_where_they_stand(tmp_path: Path) -> None:
    found = shown(problems(tmp_path, secure_aggregation="{kind: secagg_plus, threshold: 0.5, neighbours: 3}"))
    assert [line.split(":", 3)[2].strip() for line in found] == [
        "secure_aggregation.threshold",
        "secure_aggregation.neighbours",
    ]
    (line,) = shown(problems(tmp_path, secure_aggregation="{kind: none, bits: 8}"))
    assert "unknown field 'bits'; it is a knob of secagg, secagg_plus" in line


def test_noise_that_protects_a_sum_needs_one(tmp_path: Path) -> None:
    privacy = "{kind: dp_bank_distributed, noise_multiplier: 1.0, dp_delta: 1e-5}"
    assert shown(problems(tmp_path, privacy=privacy)) == [
        "5:11: privacy.kind: 'dp_bank_distributed' protects the sum of the banks' updates alone; "
        "set secure_aggregation to secagg, secagg_plus"
    ]
    changed = {"privacy": privacy, "secure_aggregation": "{kind: secagg}"}
    assert problems(tmp_path, **changed) == []
    (found,) = shown(problems(tmp_path, **changed, upload="[{kind: randk}]"))
    assert found.endswith(
        "the noise of 'dp_bank_distributed' is that of whole updates on a grid of its own; remove upload"
    )
    (found,) = shown(problems(tmp_path, **{**changed, "privacy": privacy.replace("}", ", accountant: pld}")}))
    assert "privacy.accountant" in found
