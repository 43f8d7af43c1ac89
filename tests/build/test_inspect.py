"""``fedsim inspect``: splits of a file by name, as a table, JSON and pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fedsim.build.inspect import as_json, as_text, inspect, save_pictures
from fedsim.core.errors import DataError

FILE = """num_rounds: 1
data: {kind: digits}
model: {kind: resnet, depth: 8, width: 4, channels: 1}
vary:
  partition: [{kind: iid, num_banks: 3}, {kind: dirichlet, alpha: 0.1, num_banks: 3}]
  strategy: [{kind: fedavg}, {kind: local}]
"""


@pytest.fixture
def splits(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text(FILE)
    return inspect(path)


def test_one_split_per_partition_and_skew_shows(splits) -> None:
    assert list(splits) == ["partition=iid", "partition=dirichlet-0.1"]
    iid, skewed = splits.values()
    assert iid["label_tv"] < 0.1 < skewed["label_tv"]
    assert iid["effective"] == pytest.approx(3, abs=0.01)


def test_text_and_json(splits) -> None:
    text = as_text(splits)
    assert text.count("\nall banks") == 2
    assert "sizes: Gini 0.0" in text
    told = json.loads(as_json(splits))["splits"]
    assert [split["name"] for split in told] == list(splits)
    assert sum(bank["train"] + bank["test"] for bank in told[0]["banks"]) == 1797


def test_pictures(splits, tmp_path: Path) -> None:
    files = save_pictures(splits, tmp_path / "pictures")
    assert len(files) == 4
    for file in files:
        assert ElementTree.parse(file).getroot().get("aria-label")


def test_texts_as_the_base_model_sees_them(tmp_path: Path) -> None:
    path = tmp_path / "topics.yaml"
    path.write_text("""num_rounds: 1
data: {kind: loan_book, num_banks: 2, rows_per_bank: 40}
model: {kind: embedded}
vary: {partition: [{kind: by_topic, num_banks: 2}, {kind: iid, num_banks: 2}]}
""")
    topics, iid = inspect(path).values()
    assert (topics["embedding_shift"] > 0.1, iid["embedding_shift"]) == (True, None)
    both = inspect(path, embeddings=True)
    topics, iid = both.values()
    assert iid["embedding_shift"] < topics["embedding_shift"]
    assert "\ntexts: distance" in as_text(both)
    assert len(save_pictures(both, tmp_path)) == 6


def test_pictures_need_matplotlib(splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DataError, match=r"pip install 'fedsim\[report\]'"):
        save_pictures(splits, tmp_path)
