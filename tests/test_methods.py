"""``fedsim methods``: every registered method in every form, and a table that fits 100 columns."""

from __future__ import annotations

import io
import json

import pytest

from fedsim.methods import WIDTH, Form, show
from fedsim.strategies import STRATEGIES


def shown(form: Form) -> str:
    out = io.StringIO()
    show(form, out)
    return out.getvalue()


@pytest.mark.parametrize("form", ["text", "json", "markdown"])
def test_every_method_is_there(form: Form) -> None:
    text = shown(form)
    assert all(kind in text for kind in STRATEGIES)


def test_the_table_is_readable_at_100_columns() -> None:
    lines = shown("text").splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert "…" not in shown("text")
    row = next(number for number, line in enumerate(lines) if line.startswith("ffa_lora"))
    assert " ".join(lines[row].split()) == "ffa_lora B, head B, head B, head; A once yes none mixed yes"
    assert lines[row + 1].split() == ["2403.12313"]


def test_json_holds_all_that_a_sheet_says() -> None:
    (row,) = [row for row in json.loads(shown("json")) if row["kind"] == "fedsa_lora"]
    assert (row["up"], row["exact"], row["mixed_ranks"], row["source"]) == ("A", "n/a (personal)", False, "2410.01463")


def test_markdown_has_one_line_per_method_and_as_many_cells_as_its_header() -> None:
    lines = shown("markdown").splitlines()
    assert len(lines) == 2 + len(STRATEGIES)
    assert len({line.count("|") for line in lines}) == 1
