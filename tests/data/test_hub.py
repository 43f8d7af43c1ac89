"""Hub data sets, from local folders: the same calls of ``datasets`` without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fedsim.data
from fedsim.core.errors import DataError
from fedsim.core.rows import Corpus

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def load(name: str | Path, **knobs: Any) -> Corpus:
    return fedsim.data.SOURCES.create("hub", {"id": str(name), **knobs}).load(0)


def sentiment() -> Any:
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["negative", "neutral", "positive"])}
    )
    train = {"sentence": ["up", "flat", "down"], "label": [2, 1, 0]}
    test = {"sentence": ["higher"], "label": [2]}
    return datasets.DatasetDict(
        {
            "train": datasets.Dataset.from_dict(train, features=features),
            "test": datasets.Dataset.from_dict(test, features=features),
        }
    )


def test_a_saved_data_set_with_class_names_and_its_own_test_split(tmp_path: Path) -> None:
    sentiment().save_to_disk(tmp_path / "saved")
    corpus = load(tmp_path / "saved", labels=["negative", "neutral", "positive"])
    assert corpus.prompts == ("up", "flat", "down", "higher")
    assert corpus.answers == ("positive", "neutral", "negative", "positive")
    assert corpus.test.tolist() == [False, False, False, True]
    assert corpus.columns["split"].tolist() == ["train", "train", "train", "test"]


def test_one_split_and_missing_class_numbers(tmp_path: Path) -> None:
    sentiment()["train"].save_to_disk(tmp_path / "one")
    corpus = load(tmp_path / "one")
    assert corpus.label_words == ("negative", "neutral", "positive")
    assert not corpus.test.any()
    features = sentiment()["train"].features
    datasets.Dataset.from_dict({"sentence": ["x"], "label": [-1]}, features=features).save_to_disk(tmp_path / "hidden")
    with pytest.raises(DataError, match=r"hidden\[train\]:1: column 'label': got nothing"):
        load(tmp_path / "hidden", labels=["negative", "positive"])


def test_a_folder_of_data_files_goes_through_load_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    folder.mkdir()
    for split, count in (("train", 3), ("test", 2)):
        rows = [{"context": f"{split} {row}", "target": str(row)} for row in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpus = load(folder)
    assert corpus.prompts == ("train 0", "train 1", "train 2", "test 0", "test 1")
    assert corpus.test.tolist() == [False] * 3 + [True] * 2
    assert corpus.label_words == ()


def test_revision_and_subset_reach_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fake(path: str, name: str | None, revision: str | None) -> Any:
        asked.append((path, name, revision))
        return sentiment()

    monkeypatch.setattr(datasets, "load_dataset", fake)
    corpus = load("owner/name", subset="50agree", revision="abc123", test={"fraction": 0.5})
    assert asked == [("owner/name", "50agree", "abc123")]
    assert len(corpus) == 4


@pytest.mark.parametrize(
    "failure",
    [
        datasets.exceptions.DatasetNotFoundError("Dataset 'owner/name' doesn't exist\non the Hub"),
        ConnectionError("no route to the Hub"),
        ValueError("BuilderConfig 'x' not found. Available: ['a']"),
        RuntimeError("Dataset scripts are no longer supported"),
    ],
)
def test_what_goes_wrong_at_the_hub_is_one_line(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def fail(path: str, name: str | None, revision: str | None) -> Any:
        raise failure

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError) as caught:
        load("owner/name")
    assert str(caught.value).startswith("data set 'owner/name' cannot be loaded: " + str(failure).splitlines()[0])
    assert "\n" not in str(caught.value)
