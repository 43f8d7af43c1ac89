"""FinLoRA's flat block becomes our sections, other tools' keys are answered with ours."""

from __future__ import annotations

import pytest

from fedsim.core.document import Document, parse
from fedsim.core.names import FLAT, FOREIGN, SWITCHES, foreign, rewrite
from fedsim.core.overrides import override
from fedsim.core.scenario import Scenario

FINLORA = """\
federated_learning: true
num_clients: 4
client_fraction: 1.0
num_rounds: 10
use_dp_lora: true
dp_epsilon: 1.0
dp_delta: 1e-5
noise_multiplier: 1.0
max_grad_norm: 1.0
lora_r: 8
lora_alpha: 16
quant_bits: 8
"""


def rewritten(text: str, *overrides: str) -> Document:
    document, problems = rewrite(override(parse(text, "f.yaml"), overrides))
    assert problems == []
    return document


def problems_of(text: str, *overrides: str) -> list[str]:
    return [str(problem) for problem in rewrite(override(parse(text, "f.yaml"), overrides))[1]]


def test_finlora_block_unchanged() -> None:
    document = rewritten(FINLORA + "model: {kind: embedded}\n")
    assert document.data == {
        "client_fraction": 1.0,
        "num_rounds": 10,
        "partition": {"kind": "iid", "num_banks": 4},
        "privacy": {
            "kind": "dp_sgd",
            "dp_epsilon": 1.0,
            "dp_delta": 1e-5,
            "noise_multiplier": 1.0,
            "max_grad_norm": 1.0,
        },
        "lora": {"r": 8, "lora_alpha": 16},
        "model": {"kind": "embedded", "quant_bits": 8},
    }
    assert document.where(("privacy", "dp_delta")) == "f.yaml:7:1"
    assert document.where(("partition", "num_banks")) == "f.yaml:2:1"
    assert document.where(("privacy",)) == "f.yaml:5:1"


def test_other_flat_names() -> None:
    document = rewritten("local_epochs: 1\nbatch_size: 8\nlearning_rate: 1e-4\ntarget_modules: q_proj, v_proj\n")
    assert document.data == {
        "train": {"local_epochs": 1, "batch_size": 8, "lr": 1e-4},
        "lora": {"target_modules": ["q_proj", "v_proj"]},
    }


def test_a_regular_expression_for_target_modules_stays_one() -> None:
    assert rewritten(r"target_modules: '.*\.[qv]_proj'").data["lora"]["target_modules"] == r".*\.[qv]_proj"


def test_flat_names_join_a_section() -> None:
    document = rewritten(
        "partition: {kind: dirichlet, alpha: 0.1}\nnum_clients: 5\nprivacy: {kind: dp_sgd}\ndp_delta: 1e-6"
    )
    assert document.data["partition"] == {"kind": "dirichlet", "alpha": 0.1, "num_banks": 5}
    assert document.data["privacy"] == {"kind": "dp_sgd", "dp_delta": 1e-6}


def test_dp_keys_alone_mean_dp_sgd_and_the_switch_turns_them_off() -> None:
    assert rewritten("dp_delta: 1e-5").data["privacy"]["kind"] == "dp_sgd"
    assert rewritten("dp_delta: 1e-5\nuse_dp_lora: false").data["privacy"] == {"kind": "none"}


def test_switches() -> None:
    assert problems_of("federated_learning: false") == [
        "f.yaml:1:1: federated_learning: fedsim always runs federated; for one model on all rows use "
        "strategy: {kind: pooled}"
    ]
    assert problems_of("use_dp_lora: 1") == ["f.yaml:1:1: use_dp_lora: expected true or false"]


def test_a_value_under_two_names_is_a_problem() -> None:
    assert problems_of("lora: {r: 8}\nlora_r: 16\n") == [
        "f.yaml:2:1: lora_r: given twice: 'lora_r' is called 'lora.r' here, which stands at f.yaml:1:8"
    ]
    assert problems_of("num_rounds: 8\nnum-rounds: 16\n") == [
        "f.yaml:2:1: num-rounds: given twice: 'num-rounds' is called 'num_rounds' here, which stands at f.yaml:1:1"
    ]
    assert problems_of("use_dp_lora: true\nprivacy: {kind: none}") == [
        "f.yaml:1:1: use_dp_lora: given twice: 'use_dp_lora' is called 'privacy.kind' here, which stands at f.yaml:2:11"
    ]


def test_the_command_line_wins_under_either_name() -> None:
    assert rewritten("lora: {r: 8}", "lora_r=4").data == {"lora": {"r": 4}}
    assert rewritten("lora_r: 8", "lora.r=4").data == {"lora": {"r": 4}}
    assert rewritten("lora_r: 8", "lora.r=4").where(("lora", "r")) == "--set #1"
    assert rewritten("partition: {kind: iid, num_banks: 3}", "num-clients=9").data["partition"]["num_banks"] == 9


def test_hyphens_are_underscores_in_names_but_not_in_values() -> None:
    document = rewritten(
        "num-rounds: 3\n"
        "lora: {lora-alpha: 4}\n"
        "upload: [{kind: topk, error-feedback: true}]\n"
        "data: {kind: table, labels: {non-performing: default, ok: repaid}}\n"
    )
    assert document.data == {
        "num_rounds": 3,
        "lora": {"lora_alpha": 4},
        "upload": [{"kind": "topk", "error_feedback": True}],
        "data": {"kind": "table", "labels": {"non-performing": "default", "ok": "repaid"}},
    }
    assert document.where(("upload", 0, "error_feedback")) == "f.yaml:3:23"


def test_a_section_that_is_not_a_mapping_is_left_to_validation() -> None:
    assert rewritten("lora: 3\nlora_r: 8").data == {"lora": 3}


def test_the_given_document_is_left_alone() -> None:
    document = parse("lora-r: 8", "f.yaml")
    rewrite(document)
    assert document.data == {"lora-r": 8}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("fraction-fit", "`fraction-fit` is called `client_fraction` here"),
        ("num-supernodes", "`num-supernodes` is called `num_clients` here"),
        ("proximal-mu", "`proximal-mu` is called `strategy.mu` here"),
        ("total_round_num", "`total_round_num` is called `num_rounds` here"),
        ("comm_round", "`comm_round` is called `num_rounds` here"),
        ("peft_lora_r", "`peft_lora_r` is called `lora.r` here"),
        ("central_epsilon", "`central_epsilon` is called `privacy.dp_epsilon` here"),
        (
            "sample_clients",
            "`sample_clients` is called `client_fraction` here (a share of the banks, not their number)",
        ),
        ("per_device_train_batch_size", "`per_device_train_batch_size` is called `train.batch_size` here"),
    ],
)
def test_foreign_names_are_answered_with_ours(name: str, sentence: str) -> None:
    assert foreign(name) == sentence


def test_no_name_of_ours_is_called_foreign() -> None:
    ours = {*Scenario.model_fields, *FLAT, *SWITCHES} - {"learning_rate"}  # ours at the top only, and lr below train
    assert not [name for name in ours if foreign(name)]
    listed = [theirs for names in FOREIGN.values() for theirs in names.split()]
    assert len(listed) == len(set(listed))
