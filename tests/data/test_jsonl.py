"""JSON Lines in the shapes that fine-tuning files have."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from fedsim.core.errors import DataError
from fedsim.core.rows import Corpus
from fedsim.data import SOURCES


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(*rows: Any, name: str = "rows.jsonl") -> str:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    data = b"\n".join(lines) + b"\n"
    Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(Path(name).resolve())


def load(path: str, **knobs: Any) -> Corpus:
    return SOURCES.create("jsonl", {"path": path, **knobs}).load(0)


def error(*rows: Any, **knobs: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(write(*rows), **knobs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("prompt", ["text", "prompt", "sentence"])
def test_text_and_label(prompt: str) -> None:
    corpus = load(write({prompt: "up", "label": "positive"}, {prompt: "down", "label": "negative"}, name="a.jsonl.gz"))
    assert corpus.prompts == ("up", "down")
    assert corpus.answers == ("positive", "negative")
    assert corpus.label_words == ("negative", "positive")
    assert corpus.columns["label"].tolist() == ["positive", "negative"]


def test_context_and_target_are_free_text_unless_labels_are_given() -> None:
    path = write({"context": "up?", "target": "yes"}, {"context": "down?", "target": "no"})
    assert load(path).label_words == ()
    assert load(path).answers == ("yes", "no")
    named = load(path, labels=["no", "yes"])
    assert named.label_words == ("no", "yes")
    assert named.labels.tolist() == [1, 0]


@pytest.mark.parametrize("answer", ["output", "response"])
def test_alpaca_with_and_without_input(answer: str) -> None:
    path = write(
        {"instruction": "Add", "input": "1 2", answer: "3"}, {"instruction": "Greet", "input": "", answer: "Hi"}
    )
    corpus = load(path)
    assert corpus.answers == ("3", "Hi")
    assert corpus.prompts[0].endswith("### Instruction:\nAdd\n\n### Input:\n1 2\n\n### Response:\n")
    assert corpus.prompts[1].endswith("### Instruction:\nGreet\n\n### Response:\n")
    assert "Input" not in corpus.prompts[1]
    alone = load(write({"instruction": "Greet", answer: "Hi"}))
    assert alone.prompts == (corpus.prompts[1],)


def test_named_fields_come_first() -> None:
    row = {"text": "t", "target": "FIO", "label": "positive"}
    path = write(row, {**row, "label": "negative"})
    assert load(path).answers == ("positive", "negative")
    corpus = load(path, text="about {target}: {text}", answer="target")
    assert corpus.prompts == ("about FIO: t",) * 2
    assert corpus.answers == ("FIO", "FIO")


def test_fields_that_cannot_be_guessed() -> None:
    assert error({"body": "x", "label": "y"}) == (
        "rows.jsonl: no prompt: set text, e.g. 'amount {amount}'. Columns: body, label"
    )
    assert error({"text": "x", "verdict": "y"}) == "rows.jsonl: no answer: set label or answer. Columns: text, verdict"


def test_lines_that_are_not_objects() -> None:
    good = {"text": "x", "label": "y"}
    assert error(good, b"", b"{'text': 1}") == (
        "rows.jsonl:3: not a JSON object: Expecting property name enclosed in double quotes at column 2"
    )
    assert error(good, b"[1, 2]") == 'rows.jsonl:2: expected an object like {"text": ...}, got list'
    assert error(b"[", b'{"text": 1}').endswith("the file looks like a JSON array: write one object per line")
    assert error(b"[{}]").endswith("got list")
    assert error(good, '{"text": "café"}'.encode("latin-1")) == (
        "rows.jsonl:2: is not UTF-8 (byte 0xe9); save the file as UTF-8"
    )
    assert error(b"", b"  ") == "rows.jsonl: is empty"


def test_places_count_blank_lines() -> None:
    rows = [{"text": "a", "label": "good"}, b"", {"text": "b", "label": "mayb"}]
    assert error(*rows, labels=["good", "bad"]).startswith("rows.jsonl:3: column 'label': got 'mayb'")


def test_a_row_without_answer_or_text() -> None:
    assert error({"context": "a", "target": "x"}, {"context": "b"}) == (
        "rows.jsonl:2: column 'target': got nothing, expected an answer"
    )
    assert error({"context": "a", "target": "x"}, {"target": "b"}) == "rows.jsonl:2: no text: 'context' empty"


def test_a_byte_order_mark_is_skipped() -> None:
    path = write(b"\xef\xbb\xbf" + json.dumps({"context": "a", "target": "x"}).encode())
    assert load(path).prompts == ("a",)


def test_lists_are_no_labels() -> None:
    rows = [{"text": "a", "label": ["x"]}, {"text": "b", "label": ["y"]}]
    assert error(*rows) == "rows.jsonl: column 'label' holds lists or objects, not labels"


@pytest.mark.parametrize(
    ("name", "count", "labels"),
    [
        ("financial_phrasebank_50agree", 4846, 3),
        ("finlora_xbrl_term", 6507, 0),
        ("finlora_formula", 1000, 0),
        ("fiqa_posts_absa_train", 675, 3),
        ("banking77", 13083, 77),
        ("sba_prompts_by_bank", 22304, 2),
    ],
)
def test_the_shared_files_load_as_they_are(shared_data: Path, name: str, count: int, labels: int) -> None:
    corpus = load(str(shared_data / "text" / f"{name}.jsonl.gz"))
    assert len(corpus) == count
    assert len(corpus.label_words) == labels
