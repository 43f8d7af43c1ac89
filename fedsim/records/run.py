"""A run as Python sees it: the tables of a run directory, read when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.records.files import read_json, read_lines
from fedsim.records.table import closing_table

if TYPE_CHECKING:
    import pandas as pd


class Run:
    """What a run left behind. Everything raises CheckpointError when its file is missing or damaged."""

    def __init__(self, run_dir: str | Path) -> None:
        self.run_dir = Path(run_dir)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The object of ``fedsim run --format json``; numbers that are not finite are None."""
        summary: dict[str, Any] = read_json(self.run_dir / "summary.json")
        return summary

    @property
    def metrics(self) -> dict[str, float | None]:
        """The last metrics of the global model, on everyone's test rows."""
        metrics: dict[str, float | None] = self.summary["metrics"]
        return metrics

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """One row per round; metrics are columns by name, oracle values are ``oracle.<name>``."""
        return _frame(self.run_dir / "rounds.jsonl")

    @cached_property
    def banks(self) -> pd.DataFrame:
        """One row per round and bank, with columns as in ``rounds``."""
        return _frame(self.run_dir / "banks.jsonl")

    def __repr__(self) -> str:
        if not (self.run_dir / "summary.json").exists():
            return f"Run({str(self.run_dir)!r}), not finished"
        return closing_table(self.summary).text()


def _frame(path: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame([_flat(line) for line in read_lines(path)])


def _flat(line: Mapping[str, Any]) -> dict[str, Any]:
    """One table row. A null is a number that is not known."""
    plain = {key: value for key, value in line.items() if key not in ("schema_version", "metrics", "oracle")}
    oracle = {f"oracle.{key}": value for key, value in line["oracle"].items()}
    row = {**plain, **line["metrics"], **oracle}
    return {key: math.nan if value is None else value for key, value in row.items()}
