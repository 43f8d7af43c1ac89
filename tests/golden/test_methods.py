"""The loss curve of every smoke scenario, committed as text: a change that moves a number must say so.

Curves are compared to one part in a million, not to the bit: kinds of processors add floats in another order, and over
three rounds that moves these curves by up to 5e-7 (measured with the instruction sets SSE4.2, AVX2 and AVX-512 on one
machine). A change in what is computed moves them by far more.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.golden.regenerate import FOLDER, HEADER, curve, golden_file
from tests.smoke import SCENARIOS, played


def committed(scenario: Path) -> list[list[float]]:
    header, *lines = golden_file(scenario).read_text(encoding="utf-8").splitlines()
    assert header == HEADER
    assert [line.split()[0] for line in lines] == [str(number) for number in range(len(lines))]
    return [[float(value) for value in line.split()[1:]] for line in lines]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.stem)
def test_curve(scenario: Path) -> None:
    found, expected = curve(played(scenario)), committed(scenario)
    assert len(found) == len(expected)
    for row, golden in zip(found, expected, strict=True):
        for value, wanted in zip(row, golden, strict=True):
            assert math.isclose(value, wanted, rel_tol=1e-6) or (math.isnan(value) and math.isnan(wanted))


def test_no_curve_is_left_of_a_scenario_that_is_gone() -> None:
    assert {file.stem for file in FOLDER.glob("*.txt")} == {scenario.stem for scenario in SCENARIOS}
