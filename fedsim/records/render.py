"""A comparison as a terminal table, CSV, JSON, Markdown or LaTeX. Text cells are for people, CSV and JSON are exact."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedsim.core.metrics import METRICS
from fedsim.records.compare import Comparison
from fedsim.records.files import to_json
from fedsim.records.table import Table
from fedsim.records.text import UNKNOWN, human_bytes, human_epsilon, human_metric

if TYPE_CHECKING:
    import pandas as pd

SHOWN_LOSERS = 8  # of a group, in the notes
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"} | {
    character: f"\\{character}" for character in "&%$#_{}"
}


def render(comparison: Comparison, notes: Sequence[str], format_: str) -> str:
    """``format_`` is a key of FORMATS."""
    return FORMATS[format_](comparison, notes)


def table(comparison: Comparison, notes: Sequence[str] = ()) -> Table:
    """One line per group: what it was, how good, for whom, at what cost."""
    groups, metric = comparison.groups, METRICS[comparison.metric]
    has_gain, has_difference = bool(groups["compared"].any()), "difference" in groups
    promised = bool((groups["epsilon"] < math.inf).any())
    header = [
        *(comparison.settings or ("scenario",)),
        "seeds",
        metric.title,
        *["difference"] * has_difference,
        *["vs alone", "losers"] * has_gain,
        "worst bank",
        "spread",
        "range",
        *["epsilon"] * promised,
        "up",
        "down",
        "front",
    ]
    rows = []
    for _, row in groups.iterrows():
        cells = [row[key] for key in comparison.settings] or [row["label"]]
        cells += [str(row["seeds"]), _with_width(row["value"], row["value_pm"])]
        if has_difference:
            cells.append(_with_width(row["difference"], row["difference_pm"], signed=True))
        if has_gain:
            cells.append(_with_width(row["gain"], row["gain_pm"], signed=True))
            cells.append(f"{row['losers']}/{row['compared']}" if row["compared"] else UNKNOWN)
        cells += [human_metric(row[name]) for name in ("worst", "spread", "range")]
        cells += [human_epsilon(row["epsilon"])] * promised
        cells += [human_bytes(round(row[name])) for name in ("bytes_up", "bytes_down")]
        rows.append((*cells, "*" if row["front"] else ""))
    return Table(tuple(header), (tuple(rows),), (*_legend(comparison, has_gain), *losers(comparison), *notes))


def _legend(comparison: Comparison, has_gain: bool) -> list[str]:
    better = "less" if METRICS[comparison.metric].lower_is_better else "more"
    told = [f"± is a 95 % t-interval over seeds; of {METRICS[comparison.metric].title}, {better} is better."]
    if has_gain:
        told.append("vs alone: mean over banks of the gain on own test rows over training alone; losers have none.")
    told.append("front *: nothing under the same conditions is as good in metric, bytes and epsilon and better in one.")
    return told


def losers(comparison: Comparison) -> list[str]:
    """A line per group with banks that lose by joining, the heaviest loss first."""
    lines = []
    for label, part in comparison.banks.groupby("label", sort=False):
        lost = part[part["gain"] < 0].sort_values("gain")
        if len(lost):
            told = [f"{row['bank']} ({row['gain']:+.3f})" for _, row in lost.head(SHOWN_LOSERS).iterrows()]
            more = [f"{len(lost) - SHOWN_LOSERS} more"] if len(lost) > SHOWN_LOSERS else []
            lines.append(f"lose by joining, {label}: {', '.join([*told, *more])}")
    return lines


def as_text(comparison: Comparison, notes: Sequence[str]) -> str:
    return table(comparison, notes).text()


def as_csv(comparison: Comparison, notes: Sequence[str]) -> str:
    """One line per group; an empty cell is not known, epsilon inf is no promise."""
    text: str = comparison.groups.to_csv(index=False, lineterminator="\n")
    return text.rstrip("\n")


def as_json(comparison: Comparison, notes: Sequence[str]) -> str:
    """Numbers that are not finite are null."""
    content = {
        "metric": comparison.metric,
        "settings": list(comparison.settings),
        "groups": _records(comparison.groups),
        "banks": _records(comparison.banks),
        "notes": list(notes),
    }
    return to_json(content, indent=2)


def as_markdown(comparison: Comparison, notes: Sequence[str]) -> str:
    content = table(comparison, notes)
    lines = [content.header, _rule(len(content.header), _num_names(comparison)), *content.sections[0]]
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([*rows, "", *(f"- {note}" for note in content.notes)])


def as_latex(comparison: Comparison, notes: Sequence[str]) -> str:
    """A tabular for the booktabs package; notes are comments."""
    content, names = table(comparison, notes), _num_names(comparison)
    header, *rows = [" & ".join(map(_latex, line)) + r" \\" for line in (content.header, *content.sections[0])]
    columns = "l" * names + "r" * (len(content.header) - names)
    body = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        header,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join([*(f"% {note}" for note in content.notes), *body])


FORMATS: Mapping[str, Callable[[Comparison, Sequence[str]], str]] = {
    "csv": as_csv,
    "json": as_json,
    "latex": as_latex,
    "markdown": as_markdown,
    "text": as_text,
}


def _num_names(comparison: Comparison) -> int:
    return max(1, len(comparison.settings))


def _rule(columns: int, names: int) -> list[str]:
    return ["---"] * names + ["---:"] * (columns - names)


def _with_width(value: float, width: float, signed: bool = False) -> str:
    text = f"{value:+.3f}" if signed and not math.isnan(value) else human_metric(value)
    return text if math.isnan(width) else f"{text} ±{width:.3f}"


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return records
