"""data.where: only rows with some values are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedsim.core.errors import DataError
from fedsim.core.rows import Corpus
from fedsim.data import SOURCES

ROWS = """x,state,year,label,split
a,CA,1999,0,train
b,NY,2001,1,train
c,CA,2001,1,train
d,TX,2001,2,train
e,NY,1999,0,test
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "t.csv"
    file.write_text(ROWS)
    return str(file)


def load(path: str, **knobs: Any) -> Corpus:
    knobs = {"text": "{x}", "label": "label", "test": {"column": "split", "value": "test"}, **knobs}
    return SOURCES.create("table", {"path": path, **knobs}).load(1)


def test_rows_with_one_of_the_values_in_file_order(path: str) -> None:
    corpus = load(path, where={"state": ["NY", "CA"]})
    assert corpus.prompts == ("a", "b", "c", "e")
    assert corpus.test.tolist() == [False, False, False, True]


def test_every_column_must_agree(path: str) -> None:
    assert load(path, labels={0: "no", 1: "yes"}, where={"state": ["CA"], "year": [2001]}).prompts == ("c",)


def test_labels_of_rows_that_are_left_out_need_no_word(path: str) -> None:
    assert load(path, where={"label": [0, 1]}, labels={0: "no", 1: "yes"}).label_words == ("no", "yes")


def test_a_row_is_a_test_row_whatever_is_left_out(path: str) -> None:
    everyone = load(path, test={"fraction": 0.5})
    marks = dict(zip(everyone.prompts, everyone.test, strict=True))
    fewer = load(path, test={"fraction": 0.5}, where={"state": ["CA", "NY"]})
    assert [marks[prompt] for prompt in fewer.prompts] == fewer.test.tolist()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"sate": ["CA"]}, "no column 'sate' for where. Did you mean 'state'"),
        ({"state": ["CA", "NV"]}, "no row has state = 'NV'; its values are 'CA', 'NY', 'TX'"),
        ({"state": ["NY"], "year": [1999]}, "where leaves no row for training"),
    ],
)
def test_what_chooses_nothing_is_refused(path: str, where: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(DataError) as error:
        load(path, where=where)
    assert message in str(error.value)
