"""``vary``: which runs a file makes, how they are called, and where their values stand."""

from __future__ import annotations

import pytest

from fedsim.core.document import parse
from fedsim.core.errors import ScenarioError
from fedsim.core.grid import MAX_NAME, expand
from fedsim.core.overrides import override


def runs(text: str, *changes: str):
    return expand(override(parse(text, "x.yaml"), changes))


def problems(text: str, *changes: str) -> list[str]:
    with pytest.raises(ScenarioError) as caught:
        runs(text, *changes)
    return str(caught.value).split("\n")


def test_a_file_without_vary_is_its_own_only_run() -> None:
    document = parse("seed: 1\n", "x.yaml")
    (only,) = expand(document)
    assert (only.name, only.document) == ("", document)


def test_every_combination_and_the_first_key_varies_slowest() -> None:
    found = runs("a: 0\nlora: {r: 4}\nvary:\n  a: [1, 2]\n  lora.r: [8, 16]\n")
    assert [run.name for run in found] == ["a=1,lora.r=8", "a=1,lora.r=16", "a=2,lora.r=8", "a=2,lora.r=16"]
    assert [run.document.data for run in found][1] == {"a": 1, "lora": {"r": 16}}
    assert found[1].settings == {"a": "1", "lora.r": "16"}


def test_paired_lists_are_walked_together() -> None:
    found = runs("vary:\n  paired: {train.lr: [0.1, 0.2], train.batch_size: [16, 32]}\n  seed: [1, 2]\n")
    pairs = [(run.document.data["train"], run.document.data["seed"]) for run in found]
    assert pairs == [
        ({"lr": 0.1, "batch_size": 16}, 1),
        ({"lr": 0.1, "batch_size": 16}, 2),
        ({"lr": 0.2, "batch_size": 32}, 1),
        ({"lr": 0.2, "batch_size": 32}, 2),
    ]
    assert found[0].name == "train.lr=0.1,train.batch_size=16,seed=1"


def test_names_leave_out_what_all_have_in_common() -> None:
    text = """vary:
  partition:
    - {kind: iid, num_banks: 12}
    - {kind: dirichlet, alpha: 0.1, num_banks: 12}
    - {kind: dirichlet, alpha: [0.1, 1], num_banks: 12}
    - {kind: by_column, column: "bank / branch", num_banks: 12}
"""
    names = [run.settings["partition"] for run in runs(text)]
    assert names == ["iid", "dirichlet-0.1", "dirichlet-0.1-1", "by_column-bank_branch"]


def test_names_say_which_knob_it_is_where_values_alone_are_the_same() -> None:
    found = runs("vary: {joins: [null, {rounds: {bank a: 7}}, {rounds: {bank b: 7}}]}")
    assert [run.settings["joins"] for run in found] == ["null", "rounds-bank_a-7", "rounds-bank_b-7"]


def test_names_are_different_and_fit_a_folder() -> None:
    found = runs("vary:\n  upload: [[], [{kind: topk, density: 0.5}], {kind: topk, density: 0.5}, null]\n")
    assert [run.settings["upload"] for run in found] == ["none", "topk-0.5~2", "topk-0.5~3", "null"]
    long = ", ".join(f"{'x' * 50}.k{index}: [1]" for index in range(10))
    (only,) = runs(f"vary: {{{long}}}\n")
    assert len(only.name) == MAX_NAME


def test_a_varied_value_knows_where_it_stands() -> None:
    first, second = runs(
        "strategy: {kind: fedavg}\nvary:\n  strategy:\n    - {kind: fedprox, mu: 1}\n    - {kind: local}\n"
    )
    assert first.document.where(("strategy", "mu")) == "x.yaml:4:23"
    assert second.document.where(("strategy", "kind")) == "x.yaml:5:8"
    assert second.document.data == {"strategy": {"kind": "local"}}


def test_combinations_share_nothing() -> None:
    first, second = runs("lora: {r: 1}\nvary: {lora.r: [2, 3], upload: [[{kind: a}]]}\n")
    first.document.data["upload"][0]["kind"] = "b"
    assert second.document.data == {"lora": {"r": 3}, "upload": [{"kind": "a"}]}


@pytest.mark.parametrize(
    ("vary", "expected"),
    [
        ("3", "1:1: vary: expected a mapping from keys to lists of values"),
        ("{}", "1:1: vary: expected a mapping from keys to lists of values"),
        ("{seed: 3}", "1:8: vary.seed: expected a list of values"),
        ("{seed: []}", "1:8: vary.seed: expected a list of values"),
        ("{seed: [1, 2, 1]}", "1:21: vary.seed[2]: 1 is listed twice"),
        ("{name: [a, b]}", "1:8: vary.name: is not a key that can be varied; write one like lora.r"),
        ("{.a: [a, b]}", "1:8: vary..a: is not a key that can be varied; write one like lora.r"),
        ("{paired: [1]}", "1:8: vary.paired: expected a mapping from keys to lists of values"),
        ("{paired: {a: [1], b: [1, 2]}}", "1:8: vary.paired: lists must be of one length: a has 1, b has 2"),
        (
            "{strategy: [{kind: a}], strategy.mu: [1]}",
            "1:31: vary.strategy.mu: overlaps 'strategy', which is varied too; write the values into one list",
        ),
        (
            "{a: [1,2,3,4,5,6,7,8,9,10,11], b: [1,2,3,4,5,6,7,8,9,10], c: [1,2,3,4,5,6,7,8,9,10]}",
            "1:1: vary: makes 1100 runs; at most 1000 can be in one file",
        ),
    ],
)
def test_what_is_wrong(vary: str, expected: str) -> None:
    assert problems(f"vary: {vary}\n") == [f"x.yaml:{expected}"]


def test_the_command_line_changes_a_list_but_not_one_of_its_values() -> None:
    text = "vary: {seed: [1, 2], lora.r: [4]}\n"
    assert [run.name for run in runs(text, "vary.seed=[5]")] == ["seed=5,lora.r=4"]
    assert runs(text, "lora.lora_alpha=2")[0].document.data["lora"] == {"lora_alpha": 2, "r": 4}
    remedy = "change its list: --set 'vary.seed=[...]'"
    assert problems(text, "seed=5") == [
        f"--set #1: seed: is varied by the scenario, so one value has no effect; {remedy}"
    ]
