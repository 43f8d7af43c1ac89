"""A report on runs as one HTML file that needs nothing but a browser: no network, no script, no other file.

Every chart is an inline SVG that says in words what it shows; everything that is drawn is also in a table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.core.metrics import METRICS
from fedsim.records import charts
from fedsim.records.charts import Chart
from fedsim.records.collect import Found
from fedsim.records.compare import CONDITIONS, Comparison, compare, interval
from fedsim.records.files import read_json
from fedsim.records.happened import failures_table, timelines, traffic_table
from fedsim.records.page import definitions, details, figures, html_table, page, section
from fedsim.records.render import table
from fedsim.records.table import overall
from fedsim.records.text import UNKNOWN, human_bytes, human_epsilon, human_metric, human_seconds

SHOWN_PACKAGES = ("fedsim", "torch", "ray", "transformers", "peft")


def report(found: Sequence[Found], notes: Sequence[str], metric: str | None = None) -> str:
    """The HTML of a report on ended runs. DataError without matplotlib."""
    comparison = compare(found, metric)
    name = " and ".join(dict.fromkeys(str(one.scenario["name"]) for one in found))
    sections = [
        section("What was asked", _asked(found, comparison)),
        section("Result", _result(comparison, notes)),
        section("Learning curves", figures(_curves(found, comparison))),
        section("Who gains by joining", figures(_gains(comparison)) + _bank_tables(comparison)),
        section("What it costs", figures(_costs(comparison)) + traffic_table(found)),
        section("Who holds what", _splits(found)),
        section("Who trained which bank when", figures(timelines(found))),
        section("What failed", failures_table(found)),
        section("How to get each row again", _runs(found)),
    ]
    return page(f"fedsim report: {name}", "".join(sections))


def _asked(found: Sequence[Found], comparison: Comparison) -> str:
    first = found[0].scenario
    about = {
        "runs": str(len(found)),
        "groups": str(len(comparison.groups)),
        "seeds": _listed({one.seed for one in found}),
        "varied": ", ".join(comparison.settings) or "the seed only",
        "rounds": _listed({one.scenario["num_rounds"] for one in found}),
    }
    for key in comparison.settings:
        about[key] = ", ".join(dict.fromkeys(one.settings[key] for one in found))
    text = (found[0].run.run_dir / "scenario.yaml").read_text(encoding="utf-8")
    label = f"The scenario of {first['name']}, {found[0].label}, seed {found[0].seed}, in full"
    return definitions(about) + details(label, f"<pre>{escape(text)}</pre>")


def _result(comparison: Comparison, notes: Sequence[str]) -> str:
    content = table(comparison, notes)
    names = max(1, len(comparison.settings))
    told = "".join(f"<li>{escape(note)}</li>" for note in content.notes)
    return html_table(content.header, content.sections[0], names) + f"<ul>{told}</ul>"


def _by_condition(found: Sequence[Found]) -> dict[str, list[Found]]:
    """Runs by the settings that a federation finds; its name is empty where there are none."""
    parts: dict[str, list[Found]] = {}
    for one in found:
        name = ", ".join(f"{key}={value}" for key, value in one.settings.items() if _is_condition(key))
        parts.setdefault(name, []).append(one)
    return parts


def _is_condition(key: str) -> bool:
    return key.partition(".")[0] in CONDITIONS


def _choice(one: Mapping[Any, Any], settings: Sequence[str], fallback: str) -> str:
    """What tells a group from others under the same conditions."""
    chosen = [(key, one[key]) for key in settings if not _is_condition(key)]
    if len(chosen) == 1:
        return str(chosen[0][1])
    return ", ".join(f"{key}={value}" for key, value in chosen) or fallback


def _curves(found: Sequence[Found], comparison: Comparison) -> Iterator[Chart]:
    title = METRICS[comparison.metric].title
    for condition, runs in _by_condition(found).items():
        lines: dict[str, list[dict[int, float]]] = {}
        for one in runs:
            name = _choice(one.settings, comparison.settings, str(one.scenario["name"]))
            lines.setdefault(name, []).append(_metric_by_round(one, comparison.metric))
        drawn = {name: band(seeds) for name, seeds in lines.items() if any(seeds)}
        if drawn:
            chart = charts.curves(drawn, "round", title)
            yield Chart(f"{title} by round{f', {condition}' if condition else ''}", chart.words, chart.figure)


def _metric_by_round(one: Found, metric: str) -> dict[int, float]:
    """The metric on everyone's rows after each evaluated round."""
    frame, banks = one.run.rounds, one.run.banks
    own = [name for name in banks.columns if name.startswith("everyone_")] if len(banks) else []
    values = {}
    for _, row in frame.iterrows():
        mine = banks[banks["round"] == row["round"]][own].to_dict("records") if own else []
        value = overall({metric: row.get(metric, math.nan)}, mine).get(metric, math.nan)
        if not math.isnan(value):
            values[int(row["round"])] = value
    return values


def band(seeds: Sequence[Mapping[int, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rounds, mean, half width of the 95 % interval) over seeds, at the rounds that any of them has."""
    rounds = sorted({number for seed in seeds for number in seed})
    told = [interval(seed[number] for seed in seeds if number in seed) for number in rounds]
    return np.array(rounds), np.array([mean for mean, _ in told]), np.array([width for _, width in told])


def _gains(comparison: Comparison) -> Iterator[Chart]:
    for label, part in comparison.banks.groupby("label", sort=False):
        known = part[part["gain"].notna()]
        if len(known):
            title = f"Gain in {METRICS[comparison.metric].title} over training alone, {_spaced(str(label))}"
            yield charts.gains(list(known["bank"]), known["gain"].to_numpy(), known["gain_pm"].to_numpy(), title)


def _bank_tables(comparison: Comparison) -> str:
    header = ("bank", "seeds", METRICS[comparison.metric].title, "alone", "gain", "±", "epsilon")
    tables = []
    for label, part in comparison.banks.groupby("label", sort=False):
        rows = []
        for _, row in part.iterrows():
            gain = UNKNOWN if math.isnan(row["gain"]) else f"{row['gain']:+.3f}"
            cells = (row["bank"], str(row["seeds"]), human_metric(row["value"]), human_metric(row["alone"]), gain)
            rows.append((*cells, human_metric(row["gain_pm"]), human_epsilon(row["epsilon"])))
        tables.append(details(f"Every bank, {_spaced(str(label))}", html_table(header, rows, 1)))
    return "".join(tables)


def _costs(comparison: Comparison) -> Iterator[Chart]:
    groups, title = comparison.groups, METRICS[comparison.metric].title
    names = [
        ", ".join(str(row[key]) for key in comparison.settings) or row["label"] for row in groups.to_dict("records")
    ]
    yield charts.traffic(names, groups["bytes_up"].to_numpy(), groups["bytes_down"].to_numpy())
    records = groups.to_dict("records")
    for condition in dict.fromkeys(_condition(row, comparison.settings) for row in records):
        rows = [row for row in records if _condition(row, comparison.settings) == condition]
        under = f", {condition}" if condition else ""
        for name, told in (("MB in the whole run", _megabytes), ("epsilon of the worst bank", _epsilon)):
            known = [row for row in rows if math.isfinite(told(row))]
            points = {_choice(row, comparison.settings, row["label"]): _point(row, told(row)) for row in known}
            if points:
                chart = charts.scatter(points, name, title)
                yield Chart(f"{title} against {name.partition(' ')[0]}{under}", chart.words, chart.figure)


def _megabytes(row: Mapping[Any, Any]) -> float:
    return float(row["bytes_up"] + row["bytes_down"]) / 1e6


def _epsilon(row: Mapping[Any, Any]) -> float:
    return float(row["epsilon"])


def _point(row: Mapping[Any, Any], cost: float) -> tuple[float, float, bool]:
    return cost, float(row["value"]), bool(row["front"])


def _condition(row: Mapping[Any, Any], settings: Sequence[str]) -> str:
    return ", ".join(f"{key}={row[key]}" for key in settings if _is_condition(key))


def _splits(found: Sequence[Found]) -> str:
    """The split of the first seed under each condition."""
    drawn, rows = [], []
    for condition, runs in _by_condition(found).items():
        path = runs[0].run.run_dir / "split.json"
        if not path.exists():
            continue
        split, name = read_json(path), f"{condition or runs[0].scenario['partition']['kind']}, seed {runs[0].seed}"
        if split["label_words"]:
            drawn.append(charts.heat_map(split, f"Labels per bank, {name}"))
        drawn.append(charts.sizes(split, f"Rows per bank, {name}"))
        if split.get("map"):
            drawn.append(charts.embedding_map(split, f"Texts as the base model sees them, {name}"))
        distances = (split.get(key) for key in ("label_tv", "label_js", "feature_shift", "embedding_shift", "gini"))
        rows.append((name, str(len(split["banks"])), f"{split['effective']:.1f}", *map(human_metric, distances)))
    if not rows:
        return "<p>These runs have no split.json.</p>"
    header = ("split", "banks", "effective", "label TV", "label JS", "features", "texts", "Gini")
    about = (
        "Label TV and JS are distances of the banks' label shares to the pool's, features that of their columns, texts "
        "that of the base model's embeddings where these made the split; all are from 0 (the same) to 1, means "
        "weighted by rows. Gini is the inequality of sizes, effective the number of equal banks as spread out."
    )
    return figures(drawn) + html_table(header, rows, 1) + f"<p>{about}</p>"


def _spaced(label: str) -> str:
    """A label that a line can break in."""
    return label.replace(",", ", ")


def _runs(found: Sequence[Found]) -> str:
    rows, environments = [], []
    for one in found:
        summary = one.run.summary
        sent = (human_bytes(summary["bytes_up"]), human_bytes(summary["bytes_down"]))
        command = f"fedsim run {_quoted(one.run.run_dir / 'scenario.yaml')}"
        told = (one.label, str(one.seed), summary["status"].replace("_", " "), human_seconds(summary["seconds"]))
        rows.append((*told, *sent, command))
        environments.append(_environment(one.run.run_dir / "environment.json"))
    header = ("run", "seed", "status", "time", "up", "down", "command")
    same = dict.fromkeys(environments)
    return html_table(header, rows, 1, code=6) + "".join(f"<p>{escape(text)}</p>" for text in same)


def _environment(path: Path) -> str:
    told = read_json(path)
    packages = [f"{name} {told['packages'][name]}" for name in SHOWN_PACKAGES if told["packages"].get(name)]
    known = {"Python": told.get("python"), "on": told.get("platform"), "commit": told.get("git_commit")}
    return ", ".join([*(f"{name} {value}" for name, value in known.items() if value), *packages])


def _quoted(path: Path) -> str:
    return f"'{path}'" if any(character in str(path) for character in " ,=()&;") else str(path)


def _listed(values: set[int]) -> str:
    return ", ".join(map(str, sorted(values)))
