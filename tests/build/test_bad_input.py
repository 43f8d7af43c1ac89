"""Bad input and the exact answer, one row each: a change to a scenario that is fine, and the lines that it gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim.build.load import check
from tests.build.fake import FAMILIES

FINE = {
    "num_rounds": "3",
    "data": "{kind: table, path: loans.csv}",
    "model": "{kind: embedded}",
}

ROWS = {
    # missing and unknown keys
    "missing section": ({"data": None}, "f.yaml:1:1: 'data' is required"),
    "missing kind": ({"data": "{path: x}"}, "f.yaml:2:1: data: 'kind' is required"),
    "missing knob": ({"data": "{kind: table}"}, "f.yaml:2:1: data: 'path' is required"),
    "missing knob, nested": (
        {"data": "{kind: table, path: x, test: {fraction: 0.2}}"},
        "f.yaml:2:30: data.test: 'column' is required",
    ),
    "misspelt flat key": (
        {"lerning_rate": "1e-3"},
        "f.yaml:4:1: unknown field 'lerning_rate'; did you mean 'learning_rate'?",
    ),
    "misspelt key": (
        {"train": "{weigth_decay: 0.1}"},
        "f.yaml:4:9: train: unknown field 'weigth_decay'; did you mean 'weight_decay'?",
    ),
    "misspelt knob": (
        {"model": "{kind: embedded, quant_bit: 4}"},
        "f.yaml:3:25: model: unknown field 'quant_bit'; did you mean 'quant_bits'?",
    ),
    "misspelt knob, nested": (
        {"data": "{kind: table, path: x, test: {column: split, fractoin: 0.2}}"},
        "f.yaml:2:52: data.test: unknown field 'fractoin'; did you mean 'fraction'?",
    ),
    "unknown key without a likeness": (
        {"evaluate": "{zzz: 1}"},
        "f.yaml:4:12: evaluate: unknown field 'zzz'; known: every, metrics, per_bank, max_new_tokens, max_rows",
    ),
    "knob of a plug-in without knobs": (
        {"strategy": "{kind: fedavg, zzz: 1}"},
        "f.yaml:4:26: strategy: unknown field 'zzz'; there is nothing to set here",
    ),
    "knob of another kind": (
        {"strategy": "{kind: fedavg, mu: 0.1}"},
        "f.yaml:4:26: strategy: unknown field 'mu'; it is a knob of fedprox",
    ),
    "key of another section": ({"r": "8"}, "f.yaml:4:1: unknown field 'r'; it belongs under 'lora'"),
    "knob outside its entry": ({"mu": "0.1"}, "f.yaml:4:1: unknown field 'mu'; it belongs under 'strategy'"),
    "Flower's key": ({"fraction-fit": "0.5"}, "f.yaml:4:1: `fraction-fit` is called `client_fraction` here"),
    "Flower's key in a section": (
        {"strategy": "{kind: fedprox, proximal-mu: 0.1}"},
        "f.yaml:4:27: strategy: `proximal-mu` is called `strategy.mu` here",
    ),
    "FederatedScope's section": (
        {"federate": "{client_num: 4, total_round_num: 9}"},
        "f.yaml:4:1: unknown field 'federate'; `client_num` is called `num_clients` here, "
        "`total_round_num` is called `num_rounds` here",
    ),
    "Hugging Face's key": (
        {"train": "{per_device_train_batch_size: 4}"},
        "f.yaml:4:9: train: `per_device_train_batch_size` is called `train.batch_size` here",
    ),
    # types
    "text for integer": ({"num_rounds": "ten"}, 'f.yaml:1:1: num_rounds: expected integer, got string "ten"'),
    "nothing for integer": ({"num_rounds": ""}, "f.yaml:1:1: num_rounds: expected integer, got nothing"),
    "boolean for integer": ({"num_rounds": "true"}, "f.yaml:1:1: num_rounds: expected integer, got boolean true"),
    "fraction for integer": ({"num_rounds": "3.0"}, "f.yaml:1:1: num_rounds: expected integer, got number 3.0"),
    "list for integer": ({"num_rounds": "[3]"}, "f.yaml:1:1: num_rounds: expected integer, got a list"),
    "quoted integer": (
        {"num_rounds": "'10'"},
        'f.yaml:1:1: num_rounds: expected integer, got string "10"; remove the quotes',
    ),
    "quoted number": (
        {"train": "{lr: '1e-3'}"},
        'f.yaml:4:9: train.lr: expected number, got string "1e-3"; remove the quotes',
    ),
    "sexagesimal": ({"num_rounds": "1:30"}, 'f.yaml:1:1: num_rounds: expected integer, got string "1:30"'),
    "octal": (
        {"num_rounds": "010"},
        "f.yaml:1:13: num_rounds: 010 is octal in YAML 1.1 and decimal in 1.2; write 10, or quote it",
    ),
    "no for boolean": (
        {"lora": "{use_rslora: no}"},
        'f.yaml:4:8: lora.use_rslora: expected true or false, got string "no"; YAML 1.2 knows true and false only',
    ),
    "integer for text": ({"name": "12"}, "f.yaml:4:1: name: expected string, got integer 12; quote it"),
    "boolean for a label word": (
        {"data": "{kind: table, path: x, labels: {0: false, 1: good}}"},
        "f.yaml:2:39: data.labels.0: expected string, got boolean false; quote it",
    ),
    "one of several types": (
        {"lora": "{target_modules: 3}"},
        "f.yaml:4:8: lora.target_modules: expected list or string, got integer 3; quote it",
    ),
    "one of several types, inside": (
        {"lora": "{target_modules: [q_proj, 3]}"},
        "f.yaml:4:33: lora.target_modules[1]: expected string, got integer 3; quote it",
    ),
    "one of several types, too small": (
        {"resources": "{banks_per_actor: 0}"},
        "f.yaml:4:13: resources.banks_per_actor: must be >= 1 (got 0)",
    ),
    "integer or a word": (
        {"resources": "{banks_per_actor: atuo}"},
        'f.yaml:4:13: resources.banks_per_actor: expected integer or "auto", got string "atuo" (did you mean \'auto\')',
    ),
    "text for section": ({"train": "fast"}, 'f.yaml:4:1: train: expected mapping, got string "fast"'),
    "list for section": ({"train": "[]"}, "f.yaml:4:1: train: expected mapping, got a list"),
    "name for plug-in": (
        {"strategy": "fedavg"},
        'f.yaml:4:1: strategy: expected mapping, got string "fedavg"; write {kind: fedavg}',
    ),
    "plug-in for a list of them": ({"upload": "{kind: affine}"}, "f.yaml:4:1: upload: expected list, got a mapping"),
    "long text is cut": (
        {"num_rounds": "x" * 99},
        f'f.yaml:1:1: num_rounds: expected integer, got string "{"x" * 56}...',
    ),
    # ranges
    "negative": ({"train": "{lr: -0.5}"}, "f.yaml:4:9: train.lr: must be > 0 (got -0.5)"),
    "zero": ({"num_rounds": "0"}, "f.yaml:1:1: num_rounds: must be >= 1 (got 0)"),
    "too large": ({"client_fraction": "1.5"}, "f.yaml:4:1: client_fraction: must be <= 1 (got 1.5)"),
    "bound of a knob": (
        {"privacy": "{kind: dp_sgd, noise_multiplier: 1.0, dp_delta: 1}"},
        "f.yaml:4:48: privacy.dp_delta: must be < 1 (got 1)",
    ),
    "not a multiple": (
        {"strategy": "{kind: fedprox, mu: 0.25}"},
        "f.yaml:4:27: strategy.mu: must be a multiple of 0.1 (got 0.25)",
    ),
    "not a number": ({"train": "{lr: .nan}"}, "f.yaml:4:9: train.lr: must be a finite number (got nan)"),
    "infinite": ({"train": "{lr: .inf}"}, "f.yaml:4:9: train.lr: must be a finite number (got inf)"),
    "overflow": ({"train": "{lr: 1e999}"}, "f.yaml:4:9: train.lr: must be a finite number (got inf)"),
    "too few entries": (
        {"train": "{betas: [0.9]}"},
        "f.yaml:4:9: train.betas: must have more entries (got 1)",
    ),
    "too many entries": (
        {"train": "{betas: [0.1, 0.2, 0.3]}"},
        "f.yaml:4:9: train.betas: must have at most 2 entries (got 3)",
    ),
    "empty text": ({"data": "{kind: table, path: ''}"}, "f.yaml:2:21: data.path: must not be empty"),
    "illegal name": (
        {"name": "a/b"},
        'f.yaml:4:1: name: must match ^[A-Za-z0-9][A-Za-z0-9._-]*$ (got "a/b")',
    ),
    "listed twice": ({"baselines": "[local, local]"}, "f.yaml:4:1: baselines: 'local' is listed twice"),
    # choices
    "unknown kind": (
        {"strategy": "{kind: fedporx}"},
        "f.yaml:4:12: strategy.kind: unknown strategy 'fedporx'. Did you mean 'fedprox'? Known: fedavg, fedprox",
    ),
    "unknown kind in a list": (
        {"upload": "[{kind: affine}, {kind: afine}]"},
        "f.yaml:4:27: upload[1].kind: unknown codec 'afine'. Did you mean 'affine'? "
        "Known: affine, bfloat16, float32, qsgd, randk, sparse, topk",
    ),
    "kind out of tree, no such module": (
        {"strategy": "{kind: 'nowhere_at_all:X'}"},
        "f.yaml:4:12: strategy.kind: strategy 'nowhere_at_all:X' cannot be imported: No module named 'nowhere_at_all'",
    ),
    "kind out of tree, not a name": (
        {"strategy": "{kind: ':'}"},
        "f.yaml:4:12: strategy.kind: strategy ':' is not of the form my_package.module:Class",
    ),
    "kind out of tree, not a plug-in": (
        {"strategy": "{kind: 'os:getcwd'}"},
        "f.yaml:4:12: strategy.kind: strategy 'os:getcwd' is not a Plug",
    ),
    "kind that is not text": (
        {"strategy": "{kind: 3}"},
        "f.yaml:4:12: strategy.kind: expected string, got integer 3; quote it",
    ),
    "unknown choice": (
        {"train": "{optimizer: adam}"},
        "f.yaml:4:9: train.optimizer: one of adamw, sgd; got 'adam' (did you mean 'adamw')",
    ),
    "unknown choice in a list": (
        {"evaluate": "{metrics: [auc, acuracy]}"},
        "f.yaml:4:27: evaluate.metrics[1]: one of auc, accuracy, f1, nll, ks, brier, ece, perplexity, "
        "exact_match, token_f1, numeric_match; got 'acuracy' "
        "(did you mean 'accuracy')",
    ),
    "number outside the choice": (
        {"model": "{kind: embedded, quant_bits: 5}"},
        "f.yaml:3:25: model.quant_bits: one of 4, 8; got 5",
    ),
    "true or a word": (
        {"lora": "{init_lora_weights: false}"},
        "f.yaml:4:8: lora.init_lora_weights: one of true, gaussian; got false",
    ),
    # several keys together
    "two ways to say how long": (
        {"train": "{local_steps: 3, local_epochs: 1}"},
        "f.yaml:4:9: train.local_steps: give local_steps (3) or local_epochs (1.0), not both",
    ),
    "idle knob": (
        {"train": "{momentum: 0.9}"},
        "f.yaml:4:1: train: momentum has an effect only with optimizer: sgd",
    ),
    "plug-in's own rule": ({"privacy": "{kind: dp_sgd}"}, "f.yaml:4:1: privacy: give noise_multiplier or dp_epsilon"),
}


def write(folder: Path, changed: dict[str, str | None]) -> Path:
    """The file, one key per line, so that rows can be counted."""
    entries = {**FINE, **changed}
    (folder / "f.yaml").write_text("".join(f"{key}: {value}\n" for key, value in entries.items() if value is not None))
    return folder / "f.yaml"


def test_the_scenario_is_fine(tmp_path: Path) -> None:
    assert check([write(tmp_path, {})], FAMILIES) == []


@pytest.mark.parametrize("row", ROWS)
def test_answer(row: str, tmp_path: Path) -> None:
    changed, expected = ROWS[row]
    problems = check([write(tmp_path, changed)], FAMILIES)
    assert [str(problem).removeprefix(f"{tmp_path}/") for problem in problems] == [expected]
    assert {problem.exit_code for problem in problems} == {2}
