"""What a scenario's sections accept, their defaults, and a scenario's identity."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from fedsim.core.scenario import Plugin, Scenario
from fedsim.core.sections import Evaluate, Lora, Resources, Train


def scenario(**changed: Any) -> Scenario:
    values = {"num_rounds": 3, "data": {"kind": "table", "path": "/a/loans.csv"}, "model": {"kind": "embedded"}}
    return Scenario.model_validate(values | changed)


def test_defaults_are_those_of_the_reference() -> None:
    found = scenario()
    assert (found.seed, found.client_fraction, found.partition.kind) == (0, 1.0, "iid")
    assert (found.strategy.kind, found.privacy.kind, found.upload, found.baselines) == ("fedavg", "none", (), ())
    assert (found.lora.r, found.lora.lora_alpha, found.train.local_steps, found.train.batch_size) == (8, 16, 10, 16)


def test_a_dumped_scenario_loads_again() -> None:
    found = scenario(
        train={"local_epochs": 1.5, "sample_rate": 0.1, "betas": (0.8, 0.9)},
        upload=({"kind": "topk", "density": 0.1}, {"kind": "affine"}),
        lora={"target_modules": ["q_proj"], "bank_ranks": (4, 8)},
        baselines=("local",),
    )
    assert Scenario.model_validate_json(found.model_dump_json(), strict=True) == found


def test_plugins_keep_their_knobs() -> None:
    plugin = Plugin.model_validate({"kind": "fedprox", "mu": 0.1, "nested": {"a": [1]}})
    assert plugin.knobs == {"mu": 0.1, "nested": {"a": [1]}}


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (Train, {"batch_size": True}, "valid integer"),
        (Train, {"batch_size": "16"}, "valid integer"),
        (Train, {"batch_size": 16.0}, "valid integer"),
        (Train, {"lr": math.nan}, "finite"),
        (Train, {"lr": math.inf}, "finite"),
        (Train, {"lr": 0.0}, "greater than 0"),
        (Train, {"lr": "1e-3"}, "valid number"),
        (Train, {"learning_rate": 1e-3}, "Extra inputs"),
        (Train, {"local_steps": 3, "local_epochs": 1.0}, r"give local_steps \(3\) or local_epochs \(1.0\), not both"),
        (Train, {"momentum": 0.9}, "momentum has an effect only with optimizer: sgd"),
        (Train, {"betas": (0.5, 0.9), "optimizer": "sgd"}, "betas has an effect only with optimizer: adamw"),
        (Train, {"min_lr": 1e-4}, "min_lr has an effect only with lr_schedule: cosine"),
        (Train, {"betas": (0.9, 1.0)}, "betas must be >= 0 and < 1"),
        (Train, {"lr_schedule": "cosine", "min_lr": 1.0}, "min_lr must not exceed lr"),
        (Lora, {"r": 0}, "greater than or equal to 1"),
        (Lora, {"init_lora_weights": "pissa"}, "True or 'gaussian'"),
        (Lora, {"r": 4, "bank_ranks": (2, 8)}, r"bank_ranks must not exceed r \(got 8, r is 4\)"),
        (Lora, {"bank_ranks": ()}, "at least 1 item"),
        (Evaluate, {"metrics": ("auc", "auc")}, "'auc' is listed twice"),
        (Evaluate, {"every": 0}, "greater than or equal to 1"),
        (Resources, {"cpus_per_client": 0.0}, "greater than 0"),
        (Resources, {"banks_per_actor": 0}, "greater than or equal to 1"),
    ],
)
def test_refused(section: type[BaseModel], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        section.model_validate(values)


def test_values_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        scenario().num_rounds = 4  # type: ignore[misc]


@pytest.mark.parametrize("name", ["", "../x", "a b", "a/b", "-x", "x" * 101])
def test_a_name_is_a_folder_name(name: str) -> None:
    with pytest.raises(ValidationError):
        scenario(name=name)


def test_without_steps_and_epochs_there_are_ten_steps() -> None:
    assert (Train().local_steps, Train().local_epochs) == (10, None)
    assert (Train(local_epochs=2.0).local_steps, Train(local_epochs=2.0).local_epochs) == (None, 2.0)


def test_bank_ranks_are_given_in_turn() -> None:
    lora = Lora(r=8, lora_alpha=16, bank_ranks=(2, 8))
    assert [lora.rank_of(bank) for bank in range(3)] == [2, 8, 2]
    assert Lora(r=4).rank_of(7) == 4
    assert (lora.scaling(8), lora.scaling(2)) == (2.0, 8.0)
    assert Lora(r=4, lora_alpha=16, use_rslora=True).scaling(4) == 8.0


def test_digest_is_of_what_matters() -> None:
    assert scenario().digest() == scenario().digest()
    assert scenario().digest() != scenario(seed=1).digest()
    assert scenario().digest() != scenario(strategy={"kind": "fedavg", "knob": 1}).digest()
    moved = {"kind": "table", "path": "/elsewhere/loans.csv"}
    assert scenario().digest() == scenario(data=moved).digest()
    assert scenario().digest() != scenario(data={"kind": "table", "path": "/a/other.csv"}).digest()
    defaults = json.loads(scenario().model_dump_json())
    assert scenario().digest() == Scenario.model_validate_json(json.dumps(defaults)).digest()


def test_every_field_is_described() -> None:
    for model in (Scenario, Lora, Train, Evaluate, Resources):
        assert not [name for name, field in model.model_fields.items() if not field.description]
