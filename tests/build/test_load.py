"""A scenario file, checked whole: all problems together, names and paths resolved, nothing but ScenarioError."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from fedsim.build.families import FAMILIES as REAL
from fedsim.build.load import check, load_scenario
from fedsim.build.schema import json_schema
from fedsim.core.errors import ScenarioError
from fedsim.core.names import FLAT, FOREIGN
from fedsim.core.scenario import Scenario
from tests.build.fake import FAMILIES
from tests.core.test_names import FINLORA

WHOLE = """\
name: sba-bank-splits
seed: 17
num_rounds: 20
client_fraction: 0.5
data: {kind: table, path: loans.csv.gz, labels: {0: repaid, 1: default}, test: {column: split, fraction: 0.2}}
partition: {kind: dirichlet, num_banks: 12, alpha: 0.1}
model:
  kind: embedded
  quant_bits: 4
lora: {r: 8, lora_alpha: 16, target_modules: [q_proj, v_proj]}
train:
  local_steps: 20
  batch_size: 16
  lr: 1e-3
  betas: [0.9, 0.99]
privacy: {kind: dp_sgd, noise_multiplier: 1.0, max_grad_norm: 1.0, dp_delta: 1e-5, dp_epsilon: 8.0}
strategy: {kind: fedprox, mu: 0.1}
upload: [{kind: topk, density: 0.1}, {kind: affine, bits: 8}]
evaluate: {every: 5, metrics: [auc, accuracy], per_bank: true}
baselines: [local, pooled]
resources: {gpus_per_client: 0.25, banks_per_actor: auto}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "banks.yaml"
    path.write_text(WHOLE)
    return path


def test_a_whole_scenario(file: Path) -> None:
    scenario = load_scenario(file, families=FAMILIES)
    assert (scenario.name, scenario.num_rounds, scenario.train.lr) == ("sba-bank-splits", 20, 1e-3)
    assert scenario.lora.target_modules == ["q_proj", "v_proj"]
    assert scenario.train.betas == (0.9, 0.99)
    assert [stage.kind for stage in scenario.upload] == ["topk", "affine"]
    assert scenario.data.knobs["labels"] == {"0": "repaid", "1": "default"}


def test_the_name_is_the_files_by_default(tmp_path: Path) -> None:
    path = tmp_path / "my banks (2).yaml"
    path.write_text(WHOLE.partition("\n")[2])
    assert load_scenario(path, families=FAMILIES).name == "my-banks-2"


def test_overrides(file: Path) -> None:
    scenario = load_scenario(file, ["num_rounds=2", "upload[1].bits=4", "num-clients=3"], FAMILIES)
    assert (scenario.num_rounds, scenario.upload[1].knobs["bits"], scenario.partition.knobs["num_banks"]) == (2, 4, 3)
    with pytest.raises(ScenarioError) as caught:
        load_scenario(file, ["lora.r=0", "train.lrr=1"], FAMILIES)
    assert str(caught.value) == (
        "--set #1: lora.r: must be >= 1 (got 0)\n--set #2: train: unknown field 'lrr'; did you mean 'lr'?"
    )


def test_both_passes_speak_together_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "num_rounds: ten\ndata: {kind: table, pth: x}\nmodel: {kind: embedded, quant_bits: 5}\nlora: {r: 0}\n"
    )
    assert [str(problem).removeprefix(f"{path}:") for problem in check([path], FAMILIES)] == [
        '1:1: num_rounds: expected integer, got string "ten"',
        "2:1: data: 'path' is required",
        "2:21: data: unknown field 'pth'; did you mean 'path'?",
        "3:25: model.quant_bits: one of 4, 8; got 5",
        "4:8: lora.r: must be >= 1 (got 0)",
    ]


def test_several_files(file: Path, tmp_path: Path) -> None:
    assert check([file, file], FAMILIES) == []
    missing = tmp_path / "gone.yaml"
    assert [problem.where for problem in check([missing, file, tmp_path], FAMILIES)] == [str(missing), str(tmp_path)]


def test_a_security_problem_decides_the_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: 1\na: &x 2\n")
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path, families=FAMILIES)
    assert [problem.exit_code for problem in caught.value.problems] == [2, 8]
    assert caught.value.exit_code == 8


def test_paths_are_relative_to_the_scenario(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load_scenario(file, families=FAMILIES).data.knobs["path"] == str(tmp_path / "loans.csv.gz")
    relative = load_scenario(Path("..") / "banks.yaml", families=FAMILIES)
    assert relative.data.knobs["path"] == str(tmp_path / "loans.csv.gz")
    from_shell = load_scenario(file, ["data.path=other.csv"], FAMILIES)
    assert from_shell.data.knobs["path"] == str(elsewhere / "other.csv")


def test_a_model_id_is_a_path_only_where_it_is_a_folder(file: Path, tmp_path: Path) -> None:
    def model_id(value: str) -> str:
        return str(load_scenario(file, [f"model={{kind: hub, id: {value}}}"], FAMILIES).model.knobs["id"])

    (tmp_path / "local").mkdir()
    file.write_text(WHOLE.replace("kind: embedded\n  quant_bits: 4", "kind: hub\n  id: local"))
    assert load_scenario(file, families=FAMILIES).model.knobs["id"] == str(tmp_path / "local")
    assert model_id("org/some-model") == "org/some-model"
    assert model_id("x" * 5000) == "x" * 5000


def test_the_same_scenario_in_another_folder_has_the_same_digest(file: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / "banks.yaml"
    copy.write_text(WHOLE)
    digests = {load_scenario(path, families=FAMILIES).digest() for path in (file, copy)}
    assert len(digests) == 1
    assert load_scenario(file, ["seed=18"], FAMILIES).digest() not in digests


def test_a_resolved_scenario_is_a_scenario_file(file: Path, tmp_path: Path) -> None:
    scenario = load_scenario(file, families=FAMILIES)
    resolved = tmp_path / "run" / "scenario.yaml"
    resolved.parent.mkdir()
    with resolved.open("w") as stream:
        YAML(typ="safe").dump(scenario.model_dump(mode="json"), stream)
    assert load_scenario(resolved, families=FAMILIES) == scenario


# ---------------------------------------------------------------- the registered plug-ins


def test_finlora_block_beside_data_and_model(tmp_path: Path) -> None:
    path = tmp_path / "finlora.yaml"
    path.write_text(FINLORA + "data: {kind: table, path: loans.csv, label: paid}\nmodel: {kind: embedded}\n")
    scenario = load_scenario(path)
    assert (scenario.num_rounds, scenario.client_fraction, scenario.lora.r, scenario.lora.lora_alpha) == (
        10,
        1.0,
        8,
        16,
    )
    assert (scenario.partition.kind, scenario.partition.knobs) == ("iid", {"num_banks": 4})
    assert (scenario.privacy.kind, scenario.model.knobs) == ("dp_sgd", {"quant_bits": 8})
    assert scenario.privacy.knobs == {
        "dp_epsilon": 1.0,
        "dp_delta": 1e-5,
        "noise_multiplier": 1.0,
        "max_grad_norm": 1.0,
    }


@pytest.mark.parametrize("path", [*(".".join(map(str, path)) for path in FLAT.values()), *FOREIGN])
def test_every_name_that_others_are_sent_to_exists(path: str) -> None:
    section, _, key = path.partition(" (")[0].partition(".")
    if section in FLAT and not key:
        return
    assert section in Scenario.model_fields
    if section in REAL and key != "kind":
        assert any(key in REAL[section].config(kind).model_fields for kind in REAL[section])
    elif key and key != "kind":
        assert key in Scenario.model_fields[section].annotation.model_fields  # type: ignore[union-attr]


def test_schema_is_a_schema_and_agrees_on_a_file(tmp_path: Path) -> None:
    schema = json_schema(FAMILIES)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    good = YAML(typ="safe", pure=True).load(WHOLE)
    good["data"]["labels"] = {"0": "repaid", "1": "default"}
    assert list(validator.iter_errors(good)) == []
    assert list(validator.iter_errors(good | {"num_clients": 4, "quant_bits": 8, "use_dp_lora": True})) == []
    for bad in (
        {"num_rounds": 0},
        {"strategy": {"kind": "fedagv"}},
        {"strategy": {"kind": "fedprox", "m": 1}},
        {"x": 1},
    ):
        assert list(validator.iter_errors(good | bad)) != []


def test_schema_of_the_registered_plugins() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for reference in set(re.findall(r'"#/\$defs/([^"]+)"', str(schema).replace("'", '"'))):
        assert reference in schema["$defs"]
        assert re.fullmatch(r"[\w.]+", reference)
