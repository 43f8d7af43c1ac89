"""From a table of raw rows to a Corpus: the part that all file formats share.

text     a template, or found from the columns that fine-tuning files usually have (``find_fields``)
label    a column with few values; ``labels`` says which answer word each stands for. Its order is the label's index,
         and of two words the last one is the positive class
answer   instead of a label: a column of free text
unit     a column that says whose row it is, for privacy at the level of customers
where    only rows with one of these values in a column are used
test     which rows are test rows: by a column, or a fraction by a seeded hash of the row number, so that a row's
         membership depends on nothing but its place in the data and the seed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field, field_validator, model_validator

from fedsim.core import seeds
from fedsim.core.errors import DataError
from fedsim.core.registry import Config
from fedsim.core.rows import Corpus
from fedsim.data.columns import encode, missing_column, plain
from fedsim.data.fields import find_fields
from fedsim.data.files import RawRows
from fedsim.data.text import Template, is_missing, python_values

MAX_FOUND_LABELS = 200  # more distinct values than this are no label column unless ``labels`` lists them
SHOWN = 5  # offenders in a message before "and 12 more"

Word = Annotated[str, Field(min_length=1)]
Value = bool | int | float | str


class HeldOut(Config):
    """``{column: split, value: test}`` or ``{fraction: 0.2}``."""

    column: str | None = Field(default=None, min_length=1, description="A column that says which rows are test rows.")
    value: Value | None = Field(default=None, description="Its value in test rows.")
    fraction: float | None = Field(
        default=None, gt=0, lt=1, description="Share of rows, chosen by a hash of the row number."
    )

    @model_validator(mode="after")
    def _one_way(self) -> HeldOut:
        if (self.fraction is None) == (self.column is None) or (self.column is None) != (self.value is None):
            raise ValueError("give either column and value, or fraction")
        return self


class LabelsConfig(Config):
    """Knobs of every source that reads labelled rows from files."""

    labels: dict[Value, Word] | tuple[Word, ...] | None = Field(
        default=None,
        description="Value in the file -> answer word, or the words themselves; the last of two is positive.",
    )
    test: HeldOut | None = Field(default=None, description="Which rows are test rows; none if not given.")
    max_rows: int | None = Field(default=None, ge=1, description="Use this many rows, chosen at random by the seed.")

    @model_validator(mode="after")
    def _distinct(self) -> LabelsConfig:
        if self.labels is not None:
            keys = [plain(key) for key in self.labels]
            if len(set(keys)) < len(keys):
                raise ValueError(f"labels: the same value twice: {', '.join(sorted(keys))}")
            if len(set(self.words())) < 2:
                raise ValueError(f"labels: at least two different words are needed (got {', '.join(self.words())})")
        return self

    def words(self) -> tuple[str, ...]:
        """The label words in the order of their index; several values may share a word."""
        labels = self.labels or ()
        return tuple(dict.fromkeys(labels.values() if isinstance(labels, dict) else labels))

    def word_of(self) -> dict[str, str]:
        """Value in the file (its plain spelling) -> word."""
        labels = self.labels or ()
        pairs = labels.items() if isinstance(labels, dict) else ((word, word) for word in labels)
        return {plain(key): word for key, word in pairs}


class RowsConfig(LabelsConfig):
    """Knobs of every source that reads texts from files."""

    text: str | None = Field(
        default=None, description="Prompt template: columns in braces, '{amount:,.0f}' with a format."
    )
    missing: str = Field(default="unknown", description="The word for a missing value in the prompt.")
    where: dict[str, Annotated[tuple[Value, ...], Field(min_length=1)]] | None = Field(
        default=None, min_length=1, description="Use only rows with one of these values: {state: [CA, NY]}."
    )
    label: str | None = Field(default=None, min_length=1, description="The column with the label.")
    answer: str | None = Field(
        default=None, min_length=1, description="The column with the answer, where it is free text."
    )
    unit: str | None = Field(
        default=None,
        min_length=1,
        description="The column that says whose row it is (dp_sgd_customer).",
    )

    @field_validator("text")
    @classmethod
    def _parses(cls, text: str | None) -> str | None:
        if text is not None:
            Template.parse(text)
        return text

    @model_validator(mode="after")
    def _consistent(self) -> RowsConfig:
        if self.answer is not None and (self.label is not None or self.labels is not None):
            raise ValueError("give either label (and labels) or answer, not both")
        return self


def to_corpus(raw: RawRows, config: RowsConfig, seed: int) -> Corpus:
    """Raw rows as prompts and answers. DataError for missing columns, labels outside the set, rows without text."""
    if not len(raw.frame):
        raise DataError(f"{raw.name}: has no rows")
    fields = find_fields(raw, config.text, config.label or config.answer)
    wanted = [(name, "the text") for name in fields.template.columns]
    wanted += [] if config.unit is None else [(config.unit, "the unit")]
    wanted += [(name, "where") for name in config.where or ()]
    check_columns(raw, [*wanted, (fields.answer, "the answer" if config.label is None else "the label")], config.test)
    test = test_rows(raw, config.test, seed)
    raw, test = rows_where(config.where or {}, raw, test)
    if config.answer is not None or (config.label is None and config.labels is None and not fields.answer_is_label):
        words: tuple[str, ...] = ()
        labels = np.full(len(raw.frame), -1, dtype=np.int64)
    else:
        words, labels = labels_of(raw, fields.answer, config)
    raw, labels, test = at_most(config.max_rows, raw, labels, test, seed)
    answers = tuple(words[index] for index in labels.tolist()) if words else _free_text(raw, fields.answer)
    columns = {str(name): raw.frame[name].to_numpy() for name in raw.frame.columns}
    if words:
        columns["label"] = np.array(answers, dtype=object)
    units = None if config.unit is None else units_of(raw, config.unit)
    prompts = tuple(fields.render(raw, config.missing))
    return Corpus(prompts, answers, labels, words, test, columns, units=units)


def check_columns(raw: RawRows, wanted: Sequence[tuple[str, str]], test: HeldOut | None) -> None:
    """DataError when one of the (column, purpose) pairs, or the column that ``test`` names, is not there."""
    known = [str(name) for name in raw.frame.columns]
    wanted = [*wanted, (test.column, "test")] if test is not None and test.column is not None else wanted
    absent = [missing_column(name, purpose, known) for name, purpose in wanted if name not in known]
    if absent:
        more = f" And {len(absent) - 1} more columns are missing." if len(absent) > 1 else ""
        raise DataError(f"{raw.name}: {absent[0]}.{more}")


def rows_where(where: Mapping[str, Sequence[Value]], raw: RawRows, test: np.ndarray) -> tuple[RawRows, np.ndarray]:
    """(raw, test) of the rows that have one of the wanted values in every column. DataError for one that no row has."""
    chosen = np.ones(len(raw.frame), dtype=bool)
    for column, values in where.items():
        found, codes = coded(raw, column, "values to choose by")
        for value in map(plain, values):
            if value not in found:
                raise DataError(f"{raw.name}: no row has {column} = {value!r}; its values are {_listing(list(found))}")
        chosen &= np.isin(codes, [found.index(plain(value)) for value in values])
    if where and test[chosen].all():
        raise DataError(f"{raw.name}: where leaves no row for training")
    return raw.take(np.flatnonzero(chosen)), test[chosen]


def coded(raw: RawRows, column: str, purpose: str) -> tuple[tuple[str, ...], np.ndarray]:
    """``encode`` of a column. DataError when it holds no single values."""
    try:
        return encode(raw.frame[column].to_numpy())
    except TypeError as error:
        raise DataError(f"{raw.name}: column {column!r} holds lists or objects, not {purpose}") from error


def at_most(
    max_rows: int | None, raw: RawRows, labels: np.ndarray, test: np.ndarray, seed: int
) -> tuple[RawRows, np.ndarray, np.ndarray]:
    """(raw, labels, test) of ``max_rows`` rows, chosen at random and kept in order; of all rows for None."""
    if max_rows is None or max_rows >= len(labels):
        return raw, labels, test
    chosen = seeds.rng(seed, "max_rows").choice(len(labels), max_rows, replace=False)
    chosen.sort()
    return raw.take(chosen), labels[chosen], test[chosen]


def labels_of(raw: RawRows, column: str, config: LabelsConfig) -> tuple[tuple[str, ...], np.ndarray]:
    """(label words, (n,) int64 index). DataError for values outside the set, or too many to be labels."""
    found, codes = coded(raw, column, "labels")
    if config.labels is None and not 2 <= len(found) <= MAX_FOUND_LABELS:
        raise DataError(
            f"{raw.name}: column {column!r} has {len(found)} different values, so it is no label as it stands; "
            "list its values under labels, or name it as answer if it is free text"
        )
    word_of = config.word_of() or {name: name for name in found}
    words = config.words() or found
    position = {word: index for index, word in enumerate(words)}
    table = np.array([*(position[word_of[name]] if name in word_of else -1 for name in found), -1], dtype=np.int64)
    labels = table[codes]
    _refuse(raw, column, labels < 0, f"expected one of {_listing(list(word_of))}")
    return words, labels


def units_of(raw: RawRows, column: str) -> np.ndarray:
    """(n,) int64: the same number for rows of the same customer. DataError where a row does not say whose it is."""
    codes = coded(raw, column, "customers")[1]
    _refuse(raw, column, codes < 0, "expected a customer: a row without one cannot be protected with its customer's")
    return codes


def _free_text(raw: RawRows, column: str) -> tuple[str, ...]:
    _refuse(raw, column, is_missing(raw.frame[column]), "expected an answer")
    return tuple(str(value) for value in python_values(raw.frame[column]))


def test_rows(raw: RawRows, test: HeldOut | None, seed: int) -> np.ndarray:
    """(n,) bool. DataError when the value is not there, or when no row is left for training."""
    if test is None:
        return np.zeros(len(raw.frame), dtype=bool)
    if test.fraction is not None:
        return _hashed(len(raw.frame), seeds.derive(seed, "test rows")) < test.fraction
    found, codes = coded(raw, str(test.column), "test marks")
    wanted = plain(test.value)
    if wanted not in found:
        raise DataError(f"{raw.name}: no row has {test.column} = {wanted!r}; its values are {_listing(list(found))}")
    chosen = codes == found.index(wanted)
    if chosen.all():
        raise DataError(f"{raw.name}: every row has {test.column} = {wanted!r}; no row is left for training")
    return np.asarray(chosen)


def _hashed(count: int, key: int) -> np.ndarray:
    """(count,) float64 in [0, 1): SplitMix64 of the row number and the key."""
    x = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) + np.uint64(key)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((x ^ (x >> np.uint64(31))) >> np.uint64(11), dtype=np.float64) / 2**53


def _refuse(raw: RawRows, column: str, bad: np.ndarray, expected: str) -> None:
    """DataError with the place and value of the first offenders, and the count of the others."""
    rows = np.flatnonzero(bad)
    if not len(rows):
        return
    values, gone = raw.frame[column].tolist(), is_missing(raw.frame[column])
    got = ["nothing" if gone[row] else repr(values[row]) for row in rows[:SHOWN]]
    message = f"{raw.place(rows[0])}: column {column!r}: got {got[0]}, {expected}"
    if len(rows) > 1:
        also = ", ".join(f"{raw.place(row)} ({value})" for row, value in zip(rows[1:SHOWN], got[1:], strict=True))
        more = f" and {len(rows) - SHOWN} more rows" if len(rows) > SHOWN else ""
        message += f"; also {also}{more}"
    raise DataError(message)


def _listing(names: list[str]) -> str:
    listed = ", ".join(repr(name) for name in names[:20])
    return f"{listed} and {len(names) - 20} more" if len(names) > 20 else listed
