"""A split is saved by one run and taken by another, for the same rows only."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fedsim.core.errors import DataError
from fedsim.core.rows import Corpus
from fedsim.data import PARTITIONERS, split_banks
from fedsim.data.saved import saved
from tests import tiny


def take(path: Path, corpus: Corpus, seed: int = 5):
    return split_banks(corpus, PARTITIONERS.create("file", {"path": str(path)}), seed)


def test_another_run_has_the_same_banks_whatever_its_seed(tmp_path: Path) -> None:
    corpus, path = tiny.corpus(), tmp_path / "split.json"
    banks = split_banks(corpus, PARTITIONERS.create("size", {"partition_sizes": [7, 21]}), seed=1)
    path.write_text(json.dumps({"label_words": [], **saved(corpus, banks)}))
    for found, bank in zip(take(path, corpus), banks, strict=True):
        assert found.name == bank.name
        assert (found.train.tolist(), found.test.tolist()) == (bank.train.tolist(), bank.test.tolist())


def test_other_rows_are_refused(tmp_path: Path) -> None:
    corpus, path = tiny.corpus(), tmp_path / "split.json"
    path.write_text(json.dumps(saved(corpus, tiny.three_banks(corpus))))
    prompts = ("another", *corpus.prompts[1:])
    for other in (replace(corpus, prompts=prompts), replace(corpus, test=~corpus.test), tiny.corpus(30)):
        with pytest.raises(DataError, match=r"was made for other rows \(40 there, \d0 here\)"):
            take(path, other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read split .*No such file"),
        ("{", "is not JSON"),
        ("[]", "has no rows; take the split.json that a run leaves"),
        ('{"label_tv": 0.1}', "has no rows"),
    ],
)
def test_a_file_that_is_no_split_is_said_to_be_none(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "split.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        take(path, tiny.corpus())


def test_rows_that_are_no_rows_are_refused(tmp_path: Path) -> None:
    corpus, path = tiny.corpus(), tmp_path / "split.json"
    for rows, message in (({"a": ["x"]}, "must be lists of row numbers"), ({"a": [0, 40]}, "a was given row 40")):
        path.write_text(json.dumps({**saved(corpus, ()), "rows": rows}))
        with pytest.raises(DataError, match=message):
            take(path, corpus)
