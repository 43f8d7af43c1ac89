"""What is refused in a YAML text, in which words and where; and what is read."""

from __future__ import annotations

import math

import pytest

from fedsim.core.document import parse
from fedsim.core.errors import ScenarioError
from fedsim.core.strict_yaml import MAX_DEPTH, dotted, resolve

TAB = "a tab cannot stand here; indent with spaces"
BLOCK = "does not fit what began on line {}; check indentation, quotes and brackets"

# text -> the lines of the error
REFUSED = {
    "": "f.yaml:1:1: expected a mapping with 'num_rounds', 'data', 'model', ...; got nothing",
    "# only a comment\n": "f.yaml:1:1: expected a mapping with 'num_rounds', 'data', 'model', ...; got nothing",
    "---\n": "f.yaml:2:1: expected a mapping with 'num_rounds', 'data', 'model', ...; got nothing",
    "12": "f.yaml:1:1: expected a mapping with 'num_rounds', 'data', 'model', ...; got 12",
    "text": "f.yaml:1:1: expected a mapping with 'num_rounds', 'data', 'model', ...; got 'text'",
    "- a\n- b\n": "f.yaml:1:1: expected a mapping with 'num_rounds', 'data', 'model', ...; got a list",
    "a: 1\n---\nb: 2\n": "f.yaml:2:1: one document per file (second starts at line 2)",
    "%YAML 1.1\n---\na: 1\n": "f.yaml:2:1: fedsim reads YAML 1.2; remove the directives (%) above this line",
    "%TAG ! tag:x,2000:\n---\na: 1\n": "f.yaml:2:1: fedsim reads YAML 1.2; remove the directives (%) above this line",
    "a:\n\tb: 1\n": f"f.yaml:2:1: {TAB}",
    "\ta: 1\n": f"f.yaml:1:1: {TAB}",
    "a: [1, 2\nb: 3\n": "f.yaml:2:2: expected ',' or ']'; a bracket opened on line 1 is not closed",
    "a: {b: 1\n": "f.yaml:2:1: expected ',' or '}'; a bracket opened on line 1 is not closed",
    "a: {b: [": "f.yaml:1:9: expected a value, found the end of the file",
    "a: ]": "f.yaml:1:4: expected a value, found ']'",
    "a: [b]]": f"f.yaml:1:7: {BLOCK.format(1)}",
    "a:\n  b: 1\n c: 2\n": f"f.yaml:3:2: {BLOCK.format(1)}",
    "a: 'b' c": f"f.yaml:1:8: {BLOCK.format(1)}",
    "a: |x": "f.yaml:1:5: text after '|' or '>' begins on the next line",
    "{a: 1} b": "f.yaml:1:8: does not fit what stands above; check indentation, quotes and brackets",
    "a: b: c\n": "f.yaml:1:5: unexpected ':'; quote the text, or check the indentation",
    "a: 1\n  b: 2\n": "f.yaml:2:4: unexpected ':'; quote the text, or check the indentation",
    "a: 1\nb\n": "f.yaml:2:1: expected ':' after this",
    "a: 1\nb: 'xyz\n": "f.yaml:2:4: this quote is never closed",
    'a: "\\q"': "f.yaml:1:6: unknown escape '\\q' in double quotes; use single quotes",
    "a: @x": "f.yaml:1:4: a value cannot start with @; quote it",
    "a: %x": "f.yaml:1:4: a value cannot start with %; quote it",
    "a: b\x01": "f.yaml:1:5: character U+0001 is not allowed",
    "a: 1\nb: \x7f": "f.yaml:2:4: character U+007F is not allowed",
    'a: "\\U00110000"': "f.yaml:1:5: escape \\U00110000 is not allowed",
    'a: "x\\0"': "f.yaml:1:4: a: character U+0000 is not allowed",
    'a: "\\ud800"': "f.yaml:1:4: a: character U+D800 is not allowed",
    "a: 1\nb: 2\na: 3\n": "f.yaml:3:1: 'a' given twice (lines 1 and 3)",
    "t: {a: 1, a: 1}\n": "f.yaml:1:11: t: 'a' given twice (lines 1 and 1)",
    "a: 1\n'a': 3\n": "f.yaml:2:1: 'a' given twice (lines 1 and 2)",
    "? [a]\n: b": "f.yaml:1:3: a key must be plain text",
    ": b": "f.yaml:1:1: a key is missing before ':'",
    "a: 010": "f.yaml:1:4: a: 010 is octal in YAML 1.1 and decimal in 1.2; write 10, or quote it",
    "a: " + "9" * 500: "f.yaml:1:4: a: a number of 500 characters is too long",
    "a: " + "[" * 30 + "]" * 30: f"f.yaml:1:{3 + MAX_DEPTH}: a[0][0]: nested deeper than {MAX_DEPTH} levels",
}

UNSAFE = {
    "a: &x 1\nb: *x\n": (
        "f.yaml:1:4: a: anchors are not allowed; write the value out where it is used\n"
        "f.yaml:2:4: b: aliases are not allowed; write the value out"
    ),
    "t:\n  <<: {a: 1}\n": "f.yaml:2:3: t: merge keys (<<) are not allowed; write the values out",
    "a: !!int '3'": "f.yaml:1:4: a: tags are not allowed (got tag:yaml.org,2002:int)",
    "a: !!python/object/apply:os.system [x]": (
        "f.yaml:1:4: a: tags are not allowed (got tag:yaml.org,2002:python/object/apply:os.system)"
    ),
    "a: !mine {b: 1}": "f.yaml:1:4: a: tags are not allowed (got !mine)",
    "&k a: 1": "f.yaml:1:1: anchors and tags are not allowed",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items())
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(text, "f.yaml")
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("text", "message"), UNSAFE.items())
def test_refused_as_unsafe(text: str, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(text, "f.yaml")
    assert str(caught.value) == message
    assert caught.value.exit_code == 8


def test_all_problems_of_a_file_come_together() -> None:
    with pytest.raises(ScenarioError) as caught:
        parse("a: 1\na: 2\nb: 007\nc: &x 1\n", "f.yaml")
    assert [problem.where for problem in caught.value.problems] == ["f.yaml:2:1", "f.yaml:3:4", "f.yaml:4:4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 100_000, "nested deeper than 20 levels"),
        ("- " * 100_000, "nested deeper than 20 levels"),
        ("? " * 100_000, "a key must be plain text"),
        ("a: [" + "1, " * 100_000, "more than 20000 values"),
        ("a: 1\n" * 100_000, "given twice"),
    ],
)
def test_what_would_take_long_is_refused_before(text: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        parse(text, "f.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1e-5", 1e-5), ("1E5", 1e5), (".5", 0.5), ("-2.", -2.0), ("+3", 3), ("0", 0), ("0x1F", 31), ("0o17", 15)],
        *[("true", True), ("False", False), ("null", None), ("~", None), ("", None), (".inf", math.inf)],
        *[
            ("no", "no"),
            ("on", "on"),
            ("1:30", "1:30"),
            ("1_000", "1_000"),
            ("nan", "nan"),
            ("2020-01-01", "2020-01-01"),
        ],
        ("-.Inf", -math.inf),
    ],
)
def test_plain_scalars_follow_the_core_schema(text: str, value: object) -> None:
    found = resolve(text)
    assert found == value
    assert type(found) is type(value)


def test_nan_is_read_and_left_to_validation() -> None:
    assert math.isnan(parse("a: .nan", "f.yaml").data["a"])


def test_quoted_scalars_and_keys_are_text() -> None:
    assert parse("""{a: "1", b: 'true', 0: repaid, 1.0: x, yes: no}""", "f").data == {
        "a": "1",
        "b": "true",
        "0": "repaid",
        "1.0": "x",
        "yes": "no",
    }


def test_every_key_and_item_knows_its_place() -> None:
    document = parse("a: 1\nb:\n  c: [x, {d: 2}]\n", "f.yaml")
    assert document.positions == {
        (): "f.yaml:1:1",
        ("a",): "f.yaml:1:1",
        ("b",): "f.yaml:2:1",
        ("b", "c"): "f.yaml:3:3",
        ("b", "c", 0): "f.yaml:3:7",
        ("b", "c", 1): "f.yaml:3:10",
        ("b", "c", 1, "d"): "f.yaml:3:11",
    }


def test_paths_are_shown_as_users_write_them() -> None:
    assert dotted(("upload", 0, "bits")) == "upload[0].bits"
    assert dotted(("a\nb",)) == r"'a\nb'"
