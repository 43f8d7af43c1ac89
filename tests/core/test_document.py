"""Reading a scenario file: what can be wrong with the file itself, and where entries stand."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from fedsim.core.document import parse, read
from fedsim.core.errors import DataError, ModelError, PrivacyConfigError, Problem, ScenarioError, blaming
from fedsim.core.overrides import override


def error_of(path: Path) -> str:
    with pytest.raises(ScenarioError) as caught:
        read(path)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_missing_file_suggests_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text("a: 1")
    missing = tmp_path / "quikstart.yaml"
    assert error_of(missing) == f"{missing}: no such file; did you mean {tmp_path / 'quickstart.yaml'}?"
    assert error_of(tmp_path / "other.yaml") == f"{tmp_path / 'other.yaml'}: no such file"
    assert error_of(tmp_path / "no" / "x.yaml") == f"{tmp_path / 'no' / 'x.yaml'}: no such file"


def test_folder(tmp_path: Path) -> None:
    assert error_of(tmp_path) == f"{tmp_path}: is a folder; name a scenario file in it"


def test_not_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    assert error_of(tmp_path / "pipe.yaml") == f"{tmp_path / 'pipe.yaml'}: is not a regular file"
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "gone")
    assert error_of(tmp_path / "dangling.yaml") == f"{tmp_path / 'dangling.yaml'}: is not a regular file"


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: 1")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # a file mode does not stop root
    assert error_of(path) == f"{path}: cannot be read: permission denied"


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"a: 1\nb: caf\xe9\n")
    assert error_of(path) == f"{path}:2:1: is not UTF-8 (byte 0xe9); save it as UTF-8"


def test_too_large(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("# " + "x" * (1 << 20))
    assert error_of(path) == f"{path}: is larger than 1 MiB; a scenario names its data, it does not hold them"


def test_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    document = read(path)
    assert document.data == {"a": 1, "b": 2}
    assert document.where(("b",)) == f"{path}:2:1"


def test_where_falls_back_to_the_entry_around() -> None:
    document = parse("a: 1\nb:\n  c: 2\n", "f.yaml")
    assert document.where(("b", "missing", 3)) == "f.yaml:2:1"
    assert document.where(("missing",)) == "f.yaml:1:1"


def test_errors_survive_pickle() -> None:
    with pytest.raises(ScenarioError) as caught:
        parse("a: *x", "f.yaml")
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), copied.exit_code) == (str(caught.value), 8)


def test_override_values_are_yaml_and_carry_their_place() -> None:
    document = parse("lora: {r: 8}\nupload: [{kind: affine, bits: 8}]\n", "f.yaml")
    changed = override(
        document,
        ["lora.r=4", "train.lr=1e-3", "upload[0].bits=4", "upload.0.kind=topk", "strategy={kind: fedprox, mu: 0.1}"],
    )
    assert changed.data == {
        "lora": {"r": 4},
        "train": {"lr": 1e-3},
        "upload": [{"kind": "topk", "bits": 4}],
        "strategy": {"kind": "fedprox", "mu": 0.1},
    }
    places = [("lora", "r"), ("train", "lr"), ("upload", 0, "bits"), ("upload", 0, "kind"), ("strategy", "mu")]
    assert [changed.where(path) for path in places] == [f"--set #{number}" for number in range(1, 6)]
    assert changed.where(("lora",)) == "f.yaml:1:1"
    assert document.data["lora"] == {"r": 8}  # the given document is left alone


def test_override_replaces_what_stood_below() -> None:
    document = parse("strategy: {kind: fedprox, mu: 0.1}\n", "f.yaml")
    changed = override(document, ["strategy={kind: fedavg}"])
    assert changed.data == {"strategy": {"kind": "fedavg"}}
    assert changed.positions == {
        (): "f.yaml:1:1",
        ("strategy",): "--set #1",
        ("strategy", "kind"): "--set #1",
    }


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("lora.r", "--set #1: expected path=value, got 'lora.r'"),
        ("=3", "--set #1: expected path=value, got '=3'"),
        (".a=3", "--set #1: expected path=value, got '.a=3'"),
        ("a..b=3", "--set #1: expected path=value, got 'a..b=3'"),
        ("a[x]=3", "--set #1: expected path=value, got 'a[x]=3'"),
        ("name.x=3", "--set #1: name: is 'sba', not a mapping; set it as a whole"),
        ("upload[1].bits=3", "--set #1: upload: is a list of 1; choose an entry by its number from 0 (got 1)"),
        ("upload.last=3", "--set #1: upload: is a list of 1; choose an entry by its number from 0 (got 'last')"),
        ("lora=[1", "--set #1: expected ',' or ']'; a bracket opened on line 1 is not closed"),
        ("lora=*x", "--set #1: aliases are not allowed; write the value out"),
        ("lora={r: 1, r: 2}", "--set #1: 'r' given twice (lines 1 and 1)"),
    ],
)
def test_bad_overrides(assignment: str, message: str) -> None:
    document = parse("name: sba\nupload: [{kind: affine}]\n", "f.yaml")
    with pytest.raises(ScenarioError) as caught:
        override(document, [assignment])
    assert str(caught.value) == message


def test_all_bad_overrides_come_together() -> None:
    with pytest.raises(ScenarioError) as caught:
        override(parse("a: 1", "f.yaml"), ["b", "a=2", "a.c=3"])
    assert [problem.where for problem in caught.value.problems] == ["--set #1", "--set #3"]


def test_an_error_that_names_a_key_gets_its_place() -> None:
    document = parse("num_rounds: 3\nlora: {r: 8, target_modules: [q, v]}\n", "f.yaml")
    with pytest.raises(ModelError) as caught, document.placing():
        raise ModelError("'v' matches nothing", "lora.target_modules[1]")
    assert str(caught.value) == "f.yaml:2:34: lora.target_modules[1]: 'v' matches nothing"
    with pytest.raises(ModelError, match=r"^f\.yaml:1:1: partition: no rows$"), document.placing():
        raise ModelError("no rows", "partition")
    with pytest.raises(ModelError, match=r"^a bug$"), document.placing():
        raise ModelError("a bug")


def test_problems_without_a_place_get_theirs() -> None:
    document = parse("num_rounds: 3\nprivacy: {dp_delta: 0.1}\n", "f.yaml")
    problems = [Problem("", "privacy.dp_delta", "too large"), Problem("--set #1", "seed", "no number")]
    with pytest.raises(PrivacyConfigError) as caught, document.placing():
        raise PrivacyConfigError(problems)
    assert str(caught.value).splitlines() == [
        "f.yaml:2:11: privacy.dp_delta: too large",
        "--set #1: seed: no number",
    ]


def test_the_innermost_key_is_to_blame() -> None:
    with pytest.raises(DataError) as caught, blaming("data"):
        raise DataError("no rows", "data.path")
    assert (caught.value.key, str(caught.value)) == ("data.path", "no rows")
    with pytest.raises(DataError) as caught, blaming("data"):
        raise DataError("no rows")
    assert caught.value.key == "data"
