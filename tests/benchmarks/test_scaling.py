"""The scaling benchmark measures what it says, on very few banks. No time is asserted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedsim.records.files import read_lines
from tests.benchmarks import sums
from tests.benchmarks.scaling import COLUMNS, MOST, ROUNDS, Point, chart, line, measured, prepared

POINT = Point(MOST, 10, round_s=1.5, round_cpu_s=0.5, driver_cpu_s=0.1, before_cpu_s=20.0, peak_rss_mb=600.0)


@pytest.mark.filterwarnings("ignore")  # of libraries that load the model
def test_points_are_of_the_banks_sampled(tmp_path) -> None:
    two, one = measured(prepared(tmp_path, 3, 1), (2, 1), tmp_path)
    assert (two.registered, two.sampled, one.sampled) == (3, 2, 1)
    assert 0 < one.driver_cpu_s < one.round_cpu_s
    assert one.peak_rss_mb > 100
    banks = read_lines(tmp_path / "run-1" / "banks.jsonl")
    assert [bank["round"] for bank in banks if bank["participated"]] == [1, 2][:ROUNDS]


def test_a_line_has_a_cell_per_column() -> None:
    cells = [cell.strip() for cell in line(POINT).strip("|").split("|")]
    assert cells == ["10,000", "10", "1.50", "0.50", "50.0", "0.10", "20.0", "600"]
    assert len(COLUMNS) == len(cells)


def test_the_chart_says_its_numbers() -> None:
    words = chart([POINT, replace(POINT, sampled=20, round_cpu_s=0.9)]).words
    assert "whole round 0.900" in words


@pytest.mark.filterwarnings("ignore")
def test_sums_are_measured_beside_every_update(capsys) -> None:
    sums.main(banks=3, rank=2)
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1].strip() for row in rows] == ["sums", "every update"]
    assert len({row.split("|")[2] for row in rows}) == 1, "banks send the same bytes"
