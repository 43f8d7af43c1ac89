"""CSV and Parquet files as a corpus; what is wrong with a file, in one line with its place."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from fedsim.core.errors import DataError
from fedsim.core.rows import Corpus
from fedsim.data import PARTITIONERS, SOURCES, split_banks

LOANS = "term,amount,bank,label,split\n84,60000,A,0,train\n12,,B,1,test\n60,45000.5,A,1,train\n"
KNOBS = {"text": "term {term}, amount {amount:,.0f}", "label": "label", "labels": {0: "repaid", 1: "default"}}


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # messages show paths relative to the working directory


def write(name: str, content: str | bytes) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path.resolve())


def load(path: str, seed: int = 0, **knobs: Any) -> Corpus:
    return SOURCES.create("table", {"path": path, **KNOBS, **knobs}).load(seed)


def error(path: str, **knobs: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(path, **knobs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["loans.csv", "loans.csv.gz", "LOANS.CSV"])
def test_a_csv_file_becomes_a_corpus(name: str) -> None:
    corpus = load(write(name, LOANS), test={"column": "split", "value": "test"})
    assert corpus.prompts == ("term 84, amount 60,000", "term 12, amount unknown", "term 60, amount 45,000")
    assert corpus.answers == ("repaid", "default", "default")
    assert corpus.label_words == ("repaid", "default")
    assert corpus.labels.tolist() == [0, 1, 1]
    assert corpus.labels.dtype == np.int64
    assert corpus.test.tolist() == [False, True, False]
    assert corpus.columns["bank"].tolist() == ["A", "B", "A"]
    assert corpus.columns["label"].tolist() == ["repaid", "default", "default"]
    assert set(corpus.columns) == {"term", "amount", "bank", "label", "split"}


def test_parquet_tsv_and_other_separators() -> None:
    frame = pd.read_csv(write("loans.csv", LOANS))
    frame.to_parquet("loans.parquet")
    expected = load("loans.csv").prompts
    assert load("loans.parquet").prompts == expected
    assert load(write("loans.tsv", LOANS.replace(",", "\t"))).prompts == expected
    assert load(write("semicolon.csv", LOANS.replace(",", ";")), sep=";").prompts == expected


def test_a_byte_order_mark_is_skipped() -> None:
    path = write("bom.csv", b"\xef\xbb\xbf" + LOANS.encode())
    assert "term" in load(path).columns
    assert load(path).prompts == load(write("loans.csv", LOANS)).prompts


def test_the_order_of_labels_is_the_index() -> None:
    corpus = load(write("loans.csv", LOANS), labels={1: "default", 0: "repaid"})
    assert corpus.label_words == ("default", "repaid")
    assert corpus.labels.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ("0,1", {0: "good", 1: "bad"}),
        ("0,1", {"0": "good", "1": "bad"}),
        ("0,1.0", {0: "good", 1: "bad"}),
        ("False,True", {False: "good", True: "bad"}),
        ("false,TRUE", {False: "good", True: "bad"}),
        ("n,y", {"n": "good", "y": "bad"}),
        (" good,bad ", ["good", "bad"]),
    ],
)
def test_label_values_of_any_type(values: str, labels: Any) -> None:
    first, second = values.split(",")
    path = write("t.csv", f"x,label\nu,{first}\nv,{second}\nw,{first}\n")
    assert load(path, text="{x}", labels=labels).answers == ("good", "bad", "good")


def test_several_values_may_share_a_word() -> None:
    path = write("t.csv", "x,label\nu,A\nv,B\nw,C\n")
    corpus = load(path, text="{x}", labels={"A": "safe", "B": "safe", "C": "risky"})
    assert corpus.label_words == ("safe", "risky")
    assert corpus.labels.tolist() == [0, 0, 1]


def test_labels_are_found_when_they_are_not_listed() -> None:
    path = write("t.csv", "x,grade\nu,10\nv,2\nw,2\n")
    corpus = load(path, text="{x}", label="grade", labels=None)
    assert corpus.label_words == ("2", "10")
    assert corpus.labels.tolist() == [1, 0, 0]


def test_free_text_answers() -> None:
    path = write("t.csv", "x,note\nu,yes it is\nv,3\n")
    corpus = load(path, text="{x}", label=None, labels=None, answer="note")
    assert corpus.answers == ("yes it is", "3")
    assert corpus.label_words == ()
    assert corpus.labels.tolist() == [-1, -1]


def test_a_test_fraction_depends_on_the_row_number_and_the_seed_only() -> None:
    path = write("t.csv", "x,label\n" + "".join(f"{row},{row % 2}\n" for row in range(5000)))
    corpus = load(path, seed=1, text="{x}", test={"fraction": 0.2})
    assert abs(corpus.test.mean() - 0.2) < 0.02
    assert np.array_equal(corpus.test, load(path, seed=1, text="{x}", test={"fraction": 0.2}).test)
    assert abs((load(path, seed=2, text="{x}", test={"fraction": 0.2}).test & corpus.test).mean() - 0.04) < 0.01
    fewer = load(path, seed=1, text="{x}", test={"fraction": 0.2}, max_rows=500)
    rows = np.array([int(prompt) for prompt in fewer.prompts])
    assert np.array_equal(fewer.test, corpus.test[rows])


def test_max_rows_is_a_seeded_choice_in_file_order() -> None:
    path = write("t.csv", "x,label\n" + "".join(f"{row},{row % 2}\n" for row in range(100)))
    first, again, other = (load(path, seed=seed, text="{x}", max_rows=10) for seed in (1, 1, 2))
    rows = [int(prompt) for prompt in first.prompts]
    assert len(set(rows)) == 10
    assert rows == sorted(rows)
    assert first.prompts == again.prompts
    assert first.prompts != other.prompts
    assert first.labels.tolist() == [row % 2 for row in rows]
    assert first.columns["x"].tolist() == rows
    assert len(load(path, text="{x}", max_rows=1000)) == 100


def test_a_pattern_reads_several_files_told_apart_by_the_column_file() -> None:
    write("banks/north.csv", "x,label\na,0\nb,1\n")
    write("banks/south.v2.csv", "x,label\nc,1\n")
    corpus = load(str(Path("banks/*.csv").absolute()), text="{x}")
    assert corpus.prompts == ("a", "b", "c")
    assert corpus.columns["file"].tolist() == ["north", "north", "south.v2"]
    banks = split_banks(corpus, PARTITIONERS.create("by_column", {"column": "file"}), seed=0)
    assert [(bank.name, bank.train.tolist()) for bank in banks] == [("north", [0, 1]), ("south.v2", [2])]
    write("banks/west.csv", "x,label\nd,2\n")
    assert error(str(Path("banks/*.csv").absolute()), text="{x}").startswith("banks/west.csv:2: column 'label': got ")


def test_files_of_a_pattern_in_different_folders() -> None:
    write("data/train/x.csv", "x,label\na,0\nb,1\n")
    write("data/test/x.csv", "x,label\nc,1\n")
    corpus = load(str(Path("data/*/x.csv").absolute()), text="{x}", test={"column": "file", "value": "test/x"})
    assert corpus.columns["file"].tolist() == ["test/x", "train/x", "train/x"]
    assert corpus.test.tolist() == [True, False, False]


def test_files_of_a_pattern_must_agree() -> None:
    write("a.csv", "x,label\na,0\n")
    write("b.csv", "x,lable\nb,1\n")
    message = error(str(Path("*.csv").absolute()), text="{x}")
    assert message == "b.csv: columns differ from a.csv: only one has label, lable"
    assert error(str(Path("c*.csv").absolute())) == "c*.csv: no file matches this pattern"


def test_files_that_cannot_be_read() -> None:
    write("loans.csv", LOANS)
    assert error("laons.csv") == "laons.csv: no such file. Did you mean 'loans.csv'?"
    assert error("zzz.csv") == "zzz.csv: no such file"
    assert error("no/loans.csv") == "no/loans.csv: no such file (nor a folder no)"
    Path("folder.csv").mkdir()
    assert (
        error("folder.csv") == "folder.csv: is a folder, not a file; name a file in it, or a pattern like folder.csv/*"
    )
    assert error(write("empty.csv", "")) == "empty.csv: is empty"
    assert error(write("blank.csv", "\n\n")) == "blank.csv: is empty"
    assert error(write("header.csv", "term,amount,label\n")) == "header.csv: has columns but no rows"
    assert error(write("loans.xlsx", "x")).startswith("loans.xlsx: expected a file ending in .csv, .csv.gz")
    os.mkfifo("pipe.csv")
    assert error("pipe.csv") == "pipe.csv: is not a regular file"
    Path("loop.csv").symlink_to("loop.csv")
    assert error("loop.csv").startswith("loop.csv: no such file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission() -> None:
    path = write("loans.csv", LOANS)
    os.chmod(path, 0)
    assert error(path) == "loans.csv: cannot be read: permission denied"


def test_damaged_content() -> None:
    assert error(write("latin.csv", "x,label\ncafé,0\n".encode("latin-1"))) == (
        "latin.csv: is not UTF-8 (byte 0xe9); save it as UTF-8"
    )
    assert "is not UTF-8 (byte 0xff)" in error(write("wide.csv", LOANS.encode("utf-16")))
    Path("plain.csv.gz").write_text(LOANS)
    assert error("plain.csv.gz").startswith("plain.csv.gz: is damaged or not gzip")
    Path("cut.csv.gz").write_bytes(gzip.compress(LOANS.encode() * 50)[:-12])
    assert error("cut.csv.gz").startswith("cut.csv.gz: is damaged or not gzip")
    assert error(write("bad.parquet", "not parquet at all")).startswith("bad.parquet: is not a Parquet file")


def test_rows_of_the_wrong_width() -> None:
    assert error(write("t.csv", "x,label\na,0\nb,1,9\n")) == "t.csv:3: 3 values, but the header has 2 columns"
    assert error(write("u.csv", "x,label\na,0,\nb,1,\n")) == "u.csv: rows have more values than the header has columns"


def test_missing_columns_are_named_with_the_columns_there_are() -> None:
    path = write("loans.csv", LOANS)
    known = "Columns: term, amount, bank, label, split."
    assert error(path, text="{trem}") == f"loans.csv: no column 'trem' for the text. Did you mean 'term'? {known}"
    assert error(path, label="lable") == f"loans.csv: no column 'lable' for the label. Did you mean 'label'? {known}"
    assert error(path, label=None, labels=None, answer="zzz") == f"loans.csv: no column 'zzz' for the answer. {known}"
    message = error(path, text="{trem} {zzz}", test={"column": "fold", "value": 1})
    assert message.endswith("split. And 2 more columns are missing.")


def test_labels_outside_the_set_are_listed_with_their_places() -> None:
    path = write("loans.csv", "x,label\na,good\nb,mayb\n")
    knobs: dict[str, Any] = {"text": "{x}", "labels": ["good", "bad"]}
    assert error(path, **knobs) == "loans.csv:3: column 'label': got 'mayb', expected one of 'good', 'bad'"
    many = write("many.csv", "x,label\n" + "a,good\n" * 3 + "b,odd\n" * 6 + "c,\n")
    assert error(many, **knobs) == (
        "many.csv:5: column 'label': got 'odd', expected one of 'good', 'bad'; "
        "also many.csv:6 ('odd'), many.csv:7 ('odd'), many.csv:8 ('odd'), many.csv:9 ('odd') and 2 more rows"
    )
    assert error(write("none.csv", "x,label\na,good\nb,\n"), **knobs).startswith(
        "none.csv:3: column 'label': got nothing"
    )


def test_a_column_with_one_or_with_too_many_values_is_no_label() -> None:
    one = write("one.csv", "x,label\na,0\nb,0\n")
    assert "column 'label' has 1 different values" in error(one, text="{x}", labels=None)
    many = write("many.csv", "x,label\n" + "".join(f"a,{row}\n" for row in range(201)))
    assert "column 'label' has 201 different values" in error(many, text="{x}", labels=None)


def test_test_rows_that_do_not_exist_or_leave_nothing() -> None:
    path = write("loans.csv", LOANS)
    assert error(path, test={"column": "split", "value": "tset"}) == (
        "loans.csv: no row has split = 'tset'; its values are 'test', 'train'"
    )
    alone = write("alone.csv", "term,amount,label,split\n1,2,0,test\n")
    assert "no row is left for training" in error(alone, test={"column": "split", "value": "test"})


def test_all_null_text_is_refused() -> None:
    path = write("t.csv", "x,label\n,0\n,1\n")
    assert error(path, text="{x}") == "t.csv:2: no text: 'x' empty (and in 1 more rows)"


@pytest.mark.parametrize(
    ("knobs", "reason"),
    [
        ({"answer": "note"}, "either label .* or answer, not both"),
        ({"labels": {0: "same", 1: "same"}}, "at least two different words"),
        ({"labels": {0: "a", "0": "b", 1: "c"}}, "the same value twice"),
        ({"labels": {0: "", 1: "b"}}, "at least 1 character"),
        ({"text": "amount {"}, "template"),
        ({"test": {"fraction": 0.2, "column": "x"}}, "give either column and value, or fraction"),
        ({"test": {"column": "x"}}, "give either column and value, or fraction"),
        ({"test": {}}, "give either column and value, or fraction"),
        ({"test": {"fraction": 1}}, "less than 1"),
        ({"max_rows": 0}, "greater than or equal to 1"),
        ({"pth": "x"}, "Extra inputs"),
    ],
)
def test_knobs_that_contradict_each_other(knobs: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        load("loans.csv", **knobs)


def test_the_real_loans_give_the_banks_of_their_description(shared_data: Path) -> None:
    corpus = load(
        str(shared_data / "tabular" / "sba_loans_by_bank.csv.gz"),
        text="term {term_months} months, amount {gross_approved:,.0f}",
        test={"column": "split", "value": "test"},
    )
    assert Counter(corpus.answers) == {"repaid": 17614, "default": 4690}
    partitioner = PARTITIONERS.create("by_column", {"column": "bank", "num_banks": 12})
    banks = split_banks(corpus, partitioner, seed=17)
    sizes = [len(bank.train) + len(bank.test) for bank in banks]
    assert sizes == [6602, 2458, 1190, 1166, 927, 849, 679, 515, 374, 361, 278, 235]
    assert [len(bank.test) for bank in banks] == [1337, 464, 235, 238, 214, 171, 137, 100, 71, 79, 58, 48]
    assert banks[0].name == "BANK OF AMERICA NATL ASSOC"
    every = PARTITIONERS.create("by_column", {"column": "bank", "min_partition_size": 100})
    assert len(split_banks(corpus, every, seed=17)) == 18
