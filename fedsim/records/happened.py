"""The part of a report that tells how runs went: what was sent through which codec, who worked when, what failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedsim.core.grid import short_names
from fedsim.records import charts
from fedsim.records.charts import Chart
from fedsim.records.collect import Found
from fedsim.records.failures import FAILURES
from fedsim.records.files import read_lines
from fedsim.records.page import html_table
from fedsim.records.text import UNKNOWN, human_bytes
from fedsim.records.timeline import read_work

MOST_TIMELINES = 4
MOST_FAILURES = 40  # more are in failures.jsonl


def spaced(label: str) -> str:
    """A label that a line can break in."""
    return label.replace(",", ", ")


def traffic_table(found: Sequence[Found]) -> str:
    """Bytes of each group's first run in both directions, the codecs they went through, and one message of one bank."""
    rows = []
    for one in _first_of_groups(found):
        banks, cells = one.run.banks, [spaced(one.label)]
        asked = int(banks["participated"].sum())
        for direction in ("up", "down"):
            total = int(one.run.summary[f"bytes_{direction}"])
            each = human_bytes(round(total / asked)) if asked else UNKNOWN
            cells += [chain(one.scenario[f"{direction}load"]), human_bytes(total), each]
        rows.append(cells)
    header = ("run", "upload through", "up", "per message", "download through", "down", "per message")
    return html_table(header, rows, 2)


def chain(stages: Sequence[Mapping[str, Any]]) -> str:
    """Codecs in words: "topk-0.1 then affine-8"; those of the method where a scenario names none."""
    return " then ".join(short_names([stage])[0] for stage in stages) or "as the method sends"


def timelines(found: Sequence[Found]) -> Iterator[Chart]:
    """One of each group's first run, as far as it was noted."""
    shown = 0
    for one in _first_of_groups(found):
        work = read_work(one.run.run_dir)
        if work and shown < MOST_TIMELINES:
            shown += 1
            names = list(one.run.summary["banks"])
            yield charts.timeline(work, names, f"Banks by time, {spaced(one.label)}, seed {one.seed}")


def failures_table(found: Sequence[Found]) -> str:
    """Attempts that failed in any run, and what was done about each. Empty without."""
    rows = []
    for one in found:
        path = one.run.run_dir / FAILURES
        for line in read_lines(path) if path.exists() else []:
            told = (str(line["round"]), line["bank"], line["cause"].replace("_", " "), line["action"])
            rows.append((f"{spaced(one.label)}, seed {one.seed}", *told, line["message"]))
    if not rows:
        return "<p>No attempt at any bank's work failed.</p>"
    more = f"<p>{len(rows) - MOST_FAILURES} more are in the run directories.</p>" if len(rows) > MOST_FAILURES else ""
    header = ("run", "round", "bank", "cause", "then", "what was said")
    return html_table(header, rows[:MOST_FAILURES], 6) + more


def _first_of_groups(found: Sequence[Found]) -> list[Found]:
    groups: dict[str, Found] = {}
    for one in found:
        groups.setdefault(one.label, one)
    return list(groups.values())
