"""Skew in time: drift between banks, or banks that joined late.

Rows are put in order of time and cut into as many equal periods as there are banks.

    periods   bank k holds period k: every bank lives in another time
    late      bank k joins in period k: a period's rows are shared at random by the banks that exist by then, so the
              first bank has all of history and the last one the last period only

What ``late`` changes is the data that a bank holds: it takes part from the first round on unless the scenario's
``joins`` says otherwise, as rounds are no periods of time.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from fedsim.core import registry
from fedsim.data.base import Columns, NumBanks, Partitioner, Split, join, numbered
from fedsim.data.columns import times
from fedsim.data.partitioners.continuous import along


class ByTime(Partitioner):
    class Config(registry.Config):
        num_banks: NumBanks
        column: str = Field(min_length=1, examples=["date"], description="Years, or dates (ISO 8601 unless format).")
        format: str | None = Field(default=None, description="How dates are written, e.g. '%m/%d/%Y'.")
        mode: Literal["periods", "late"] = "periods"

    config: Config

    def split(self, columns: Columns, rng: np.random.Generator) -> Split:
        moments = times(columns, self.config.column, self.config.format)
        periods = along(moments, self.config.num_banks, 1.0, rng)
        if self.config.mode == "periods":
            return numbered(periods)
        parts: list[list[np.ndarray]] = [[] for _ in periods]
        for last, rows in enumerate(periods):
            for bank, part in enumerate(np.array_split(rng.permutation(rows), last + 1)):
                parts[last - bank].append(part)  # a row left over goes to the bank that joined last
        return numbered([join(part) for part in parts])
