"""Prompt templates: what they accept, how values are written, what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedsim.core.errors import DataError
from fedsim.data.text import Template


def render(template: str, missing: str = "unknown", **columns: Any) -> list[str]:
    return Template.parse(template).render(pd.DataFrame(columns), missing, lambda row: f"f.csv:{row + 2}")


def test_values_and_format_specs() -> None:
    prompts = render(
        "term {term} months, amount {amount:,.0f}, {rate:.1%}", term=[84, 7], amount=[60000.4, 5], rate=[0.5, 0]
    )
    assert prompts == ["term 84 months, amount 60,000, 50.0%", "term 7 months, amount 5, 0.0%"]


def test_column_names_are_taken_literally() -> None:
    columns = {"emp.var.rate": [1.1], "Timely response?": ["Yes"], "a[0]": ["x"], "__class__": ["y"]}
    frame = pd.DataFrame(columns)
    template = Template.parse("{emp.var.rate} {Timely response?} {a[0]} {__class__}")
    assert template.columns == ("emp.var.rate", "Timely response?", "a[0]", "__class__")
    assert template.render(frame, "", str) == ["1.1 Yes x y"]


def test_braces_repeated_columns_and_text_at_both_ends() -> None:
    template = Template.parse("{{a {x}/{x} b}} end")
    assert template.columns == ("x",)
    assert template.render(pd.DataFrame({"x": [1]}), "", str) == ["{a 1/1 b} end"]


def test_missing_and_blank_values_take_the_missing_word() -> None:
    assert render("{a:.0f}/{b}", a=[1.0, np.nan, 3.0, 4.0], b=["x", "y", " ", None]) == [
        "1/x",
        "unknown/y",
        "3/unknown",
        "4/unknown",
    ]


def test_integers_stay_integers_when_one_of_them_is_missing() -> None:
    assert render("{a}{b}", a=[84.0, np.nan], b=["x", "y"]) == ["84x", "unknowny"]
    assert render("{a}", a=[84.5, 1.0]) == ["84.5", "1.0"]


def test_dates_and_truth_values() -> None:
    assert render("{d:%Y-%m} {t}", d=pd.to_datetime(["2001-02-03"]), t=[True]) == ["2001-02 True"]


def test_a_row_without_any_text_is_refused() -> None:
    with pytest.raises(DataError, match=r"^f.csv:3: no text: 'a', 'b' empty \(and in 1 more rows\)$"):
        render("{a} {b}", a=["x", None, " "], b=[None, None, None])


def test_a_value_that_does_not_fit_its_format() -> None:
    with pytest.raises(DataError, match=r"^f\.csv:3: column 'amount': 'n/a' does not fit the format ':,.0f'"):
        render("{amount:,.0f}", amount=pd.Series([5, "n/a"], dtype=object))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("amount {amount", "expected '}'.* write {{ or }} for a brace"),
        ("amount amount}", "Single '}'"),
        ("amount {}", "empty braces"),
        ("amount { }", "empty braces"),
        ("amount {amount!r}", "drop the conversion !r"),
        ("amount {amount:{width}}", "a format spec cannot hold braces"),
        ("no columns at all", "names no column"),
        ("", "names no column"),
    ],
)
def test_templates_that_cannot_be_parsed(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Template.parse(text)
