"""What every registered partitioner promises, on configurations made from its own Config."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.core.errors import DataError
from fedsim.core.rows import Corpus
from fedsim.data import PARTITIONERS, split_banks
from fedsim.data.saved import saved

KINDS = list(PARTITIONERS)
Columns = dict[str, np.ndarray]


PATHS: dict[str, str] = {}  # of a knob that names a file, by partitioner


@pytest.fixture(scope="module", autouse=True)
def _files(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A saved split of the rows that ``ample_corpus`` has."""
    path = tmp_path_factory.mktemp("saved") / "split.json"
    banks = split_banks(ample_corpus(), PARTITIONERS.create("iid", {"num_banks": 3}), seed=0)
    path.write_text(json.dumps(saved(ample_corpus(), banks)))
    PATHS["file"] = str(path)


def example(kind: str) -> dict[str, Any]:
    """The required knobs of a partitioner, with the examples its Config gives."""
    if kind in PATHS:
        return {"path": PATHS[kind]}
    fields = PARTITIONERS.config(kind).model_fields
    return {name: field.examples[0] for name, field in fields.items() if field.is_required()}


def columns_of(labels: list[int], banks: list[int], draws: np.random.Generator) -> Columns:
    count = len(labels)
    dates = np.datetime64("2001-01-01") + draws.integers(0, 4000, count)
    return {
        "label": np.array(["repaid", "default"], dtype=object)[np.array(labels, dtype=np.int64)],
        "bank": np.array([f"bank {bank}" for bank in banks], dtype=object),
        "amount": draws.lognormal(10, 1, count),
        "date": dates.astype(str).astype(object),
        "prompt_length": draws.integers(1, 200, count),
        "embedding": draws.normal(size=(count, 4)).astype(np.float32),
    }


@st.composite
def tables(draw: st.DrawFn) -> Columns:
    count = draw(st.integers(0, 80))
    labels = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    banks = draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))
    return columns_of(labels, banks, np.random.default_rng(draw(st.integers(0, 2**32))))


def ample() -> Columns:
    draws = np.random.default_rng(0)
    return columns_of(draws.integers(0, 2, 600).tolist(), draws.integers(0, 6, 600).tolist(), draws)


def ample_corpus() -> Corpus:
    columns = ample()
    count = len(columns["label"])
    test = np.arange(count) % 5 == 0
    return Corpus(("p",) * count, ("a",) * count, np.zeros(count, dtype=np.int64), ("a",), test, columns)


def knobs_with(kind: str, changed: dict[str, Any]) -> dict[str, Any]:
    """The example with those of the changed knobs that this partitioner has."""
    known = PARTITIONERS.config(kind).model_fields
    return {**example(kind), **{name: value for name, value in changed.items() if name in known}}


def check(kind: str, columns: Columns, knobs: dict[str, Any], seed: int) -> None:
    partitioner = PARTITIONERS.create(kind, knobs)
    before = {name: values.copy() for name, values in columns.items()}
    split = partitioner.split(columns, np.random.default_rng(seed))
    count = len(columns["label"])
    given_out = np.concatenate([*split.values(), np.zeros(0, dtype=np.int64)])
    assert given_out.dtype == np.int64
    assert len(np.unique(given_out)) == len(given_out), "a row at two banks"
    assert not len(given_out) or (given_out.min() >= 0 and given_out.max() < count)
    if not partitioner.drops:
        assert len(given_out) == count, "rows were lost"
    config = partitioner.config
    if getattr(config, "num_banks", None) is not None:
        assert len(split) == config.num_banks
    if hasattr(config, "min_partition_size"):
        assert min(len(rows) for rows in split.values()) >= config.min_partition_size
    again = PARTITIONERS.create(kind, knobs).split(columns, np.random.default_rng(seed))
    assert list(again) == list(split)
    assert all(np.array_equal(again[name], split[name]) for name in split), "not deterministic"
    assert all(np.array_equal(before[name], columns[name]) for name in before), "the columns were changed"


def refusal(call: Callable[[], object]) -> str:
    """What the DataError of a call says; "" when there is none."""
    try:
        call()
    except DataError as error:
        return str(error) or "nothing was said\n"
    return ""


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(columns=tables(), num_banks=st.integers(1, 5), minimum=st.integers(0, 3), seed=st.integers(0, 2**32))
def test_any_table_is_split_or_refused_in_one_line(
    kind: str, columns: Columns, num_banks: int, minimum: int, seed: int
) -> None:
    knobs = knobs_with(kind, {"num_banks": num_banks, "min_partition_size": max(minimum, kind == "by_column")})
    message = refusal(lambda: check(kind, columns, knobs, seed))
    assert "\n" not in message


@pytest.mark.parametrize("kind", KINDS)
def test_an_ample_table_is_split(kind: str) -> None:
    for seed in range(5):
        check(kind, ample(), example(kind), seed)


@pytest.mark.parametrize("kind", KINDS)
def test_banks_of_a_corpus_are_sorted_and_keep_the_test_rows_apart(kind: str) -> None:
    corpus = ample_corpus()
    test = corpus.test
    for bank in split_banks(corpus, PARTITIONERS.create(kind, example(kind)), seed=3):
        assert not test[bank.train].any()
        assert test[bank.test].all()
        assert np.all(np.diff(bank.train) > 0)
        assert np.all(np.diff(bank.test) > 0)


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if "min_partition_size" in PARTITIONERS.config(kind).model_fields]
)
def test_a_minimum_that_cannot_be_met_ends_in_an_error(kind: str) -> None:
    columns = ample()
    impossible = len(columns["label"]) // 3 + 1
    knobs = knobs_with(kind, {"min_partition_size": impossible, "num_banks": 3})
    with pytest.raises(DataError, match="min_partition_size"):
        PARTITIONERS.create(kind, knobs).split(columns, np.random.default_rng(0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_column_is_named(kind: str) -> None:
    columns = {"something": np.arange(600)}
    partitioner = PARTITIONERS.create(kind, example(kind))
    message = refusal(lambda: partitioner.split(columns, np.random.default_rng(0)))
    assert not message or ("no column" in message and "Columns: something" in message)


@pytest.mark.parametrize("kind", KINDS)
def test_knobs_have_a_schema_and_survive_pickle(kind: str) -> None:
    schema = PARTITIONERS.config(kind).model_json_schema()
    assert schema["additionalProperties"] is False
    for name, entry in schema["properties"].items():
        assert "description" in entry or "default" in entry, name
    partitioner = pickle.loads(pickle.dumps(PARTITIONERS.create(kind, example(kind))))
    assert partitioner.config == PARTITIONERS.create(kind, example(kind)).config
