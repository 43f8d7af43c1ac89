"""Write the loss curves of all smoke scenarios: ``python -m tests.golden.regenerate``.

Run it when a change is meant to move numbers, and say in the commit why they move.
"""

from __future__ import annotations

import math
from pathlib import Path

from tests.smoke import SCENARIOS, Played, played

FOLDER = Path(__file__).parent / "methods"
HEADER = "round  training loss, nll of the global model on all test rows, mean over the banks of their nll on their own"


def golden_file(scenario: Path) -> Path:
    return FOLDER / f"{scenario.stem}.txt"


def curve(run: Played) -> list[tuple[float, ...]]:
    """(loss, nll, banks' nll) of every round; the loss is NaN where nothing was trained."""
    return [
        (
            row.oracle.get("loss", math.nan),
            row.metrics["nll"],
            math.fsum(bank.metrics["nll"] for bank in row.banks) / len(row.banks),
        )
        for row in run.rows
    ]


def text(run: Played) -> str:
    """Numbers at full precision: reading them back gives the same bits."""
    lines = [f"{number}  {' '.join(map(repr, values))}" for number, values in enumerate(curve(run))]
    return "\n".join([HEADER, *lines, ""])


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path in SCENARIOS:
        golden_file(path).write_text(text(played(path)), encoding="utf-8")
