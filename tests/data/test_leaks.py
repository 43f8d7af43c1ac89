"""Columns that tell the label by themselves."""

from __future__ import annotations

import numpy as np

from fedsim.build.split import leaks
from fedsim.core.rows import Corpus
from fedsim.core.scenario import Scenario
from fedsim.data.leaks import separating

ROWS = 400


def corpus(words: tuple[str, ...] = ("repaid", "default")) -> Corpus:
    """``far`` is large or small for the label, ``code`` a category of its own for each, ``rate`` half of each."""
    draws = np.random.default_rng(0)
    labels = draws.integers(0, len(words), ROWS)
    columns = {
        "far": np.where(labels == 0, draws.normal(0, 1, ROWS), draws.choice([-9.0, 9.0], ROWS)),
        "code": np.array(["a", "b", "c", "d"], dtype=object)[labels * 2 + draws.integers(0, 2, ROWS)],
        "rate": labels + draws.normal(0, 1, ROWS),
        "name": np.array([f"n{row}" for row in range(ROWS)], dtype=object),
        "same": np.zeros(ROWS),
    }
    answers = tuple(words[label] for label in labels)
    return Corpus(("p",) * ROWS, answers, labels, words, np.arange(ROWS) % 4 == 0, columns)


def test_what_separates_is_found_also_when_it_is_not_monotone() -> None:
    found = dict(separating(corpus(), ["far", "code", "rate", "name", "same", "absent"]))
    assert list(found) == ["far", "code"]
    assert found["code"] == 1.0


def test_a_column_must_tell_every_label() -> None:
    three = corpus()
    labels = np.where(np.arange(ROWS) % 7 < 2, 2, three.labels)  # a third label that no column knows
    words = ("repaid", "default", "open")
    other = Corpus(three.prompts, three.answers, labels, words, three.test, three.columns)
    assert dict(separating(other, ["far", "code"])) == {}
    assert dict(separating(Corpus(("p",), ("a",), np.array([-1]), (), np.array([False]), {}), ["far"])) == {}


def test_the_user_reads_which_column_and_what_to_do() -> None:
    plain = {"num_rounds": 1, "data": {"kind": "table", "text": "code {code}, rate {rate}"}, "model": {"kind": "hf"}}
    (sentence,) = leaks(Scenario.model_validate(plain), corpus())
    assert sentence.startswith("Column 'code' alone separates the label (AUC 1.000): leave it out of data.text")
