"""``fedsim inspect``: what a scenario's split looks like, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from fedsim.build.load import GridRun, load_grid
from fedsim.core.rows import BankRows, Corpus
from fedsim.core.scenario import Scenario
from fedsim.records.files import to_json
from fedsim.records.table import Table
from fedsim.records.text import UNKNOWN, human_metric

Split = Mapping[str, Any]  # as in split.json
MAX_LABELS = 4  # of which every one has a column; of more, only the most frequent is told


def inspect(path: Path, overrides: Sequence[str] = (), embeddings: bool = False) -> dict[str, Split]:
    """The splits of a scenario file by name: one, or those in which the runs of its ``vary`` differ.

    With ``embeddings`` also how far apart the banks' texts are for the base model, which is loaded for it.
    """
    from fedsim.build.prepare import load_corpus
    from fedsim.build.split import divide, embed, needed

    runs = load_grid(path, overrides)
    telling = [key for key in runs[0].settings if key.partition(".")[0] in ("data", "partition", "seed")]
    splits: dict[str, Split] = {}
    for run in runs:
        name = _name(run, telling)
        if name not in splits:
            with run.document.placing():
                corpus = load_corpus(run.scenario)
                seen = embed(run.scenario, corpus) if embeddings else needed(run.scenario, corpus)
                banks = divide(run.scenario, corpus, seen).banks
                splits[name] = split_of(run.scenario, corpus, banks, seen)
    return splits


def split_of(
    scenario: Scenario, corpus: Corpus, banks: Sequence[BankRows], embeddings: np.ndarray | None = None
) -> Split:
    """The skew of a scenario's split, as in ``split.json``."""
    from fedsim.data.skew import measure

    told = [scenario.partition.knobs.get(knob) for knob in ("column", "partition_by")]
    test = scenario.data.knobs.get("test")
    told += [scenario.data.knobs.get("label"), test.get("column") if isinstance(test, dict) else None]
    return measure(corpus, banks, {name for name in told if isinstance(name, str)}, embeddings).plain()


def as_text(splits: Mapping[str, Split]) -> str:
    blocks = [
        f"{name}\n{table(split).text()}" if len(splits) > 1 else table(split).text() for name, split in splits.items()
    ]
    return "\n\n".join(blocks)


def as_json(splits: Mapping[str, Split]) -> str:
    return to_json({"splits": [{"name": name, **split} for name, split in splits.items()]}, indent=2)


def save_pictures(splits: Mapping[str, Split], folder: Path) -> list[Path]:
    """Per split the banks' sizes, a heat map of labels and a map of embeddings, where there are such; the files."""
    from fedsim.records.charts import embedding_map, heat_map, sizes

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, split in splits.items():
        charts = {"sizes": sizes(split, f"rows per bank, {name}")}
        if split["label_words"]:
            charts["labels"] = heat_map(split, f"labels per bank, {name}")
        if split["map"]:
            charts["map"] = embedding_map(split, f"texts as the base model sees them, {name}")
        for kind, chart in charts.items():
            written.append(folder / f"{quote(name, safe=',=.')}-{kind}.svg")
            chart.save(written[-1])
    return written


def table(split: Split) -> Table:
    """One line per bank, and one for all of them."""
    words = split["label_words"]
    shown = words if len(words) <= MAX_LABELS else ()
    header = ("bank", "train", "test", *shown, *["most frequent"] * (len(words) > MAX_LABELS))
    apart = split["embedding_shift"] is not None
    header += ("length", "label TV", "label JS", *["texts"] * apart, "features", "most shifted")
    totals = {name: sum(bank[name] for bank in split["banks"]) for name in ("train", "test")}
    counts = [sum(column) for column in zip(*(bank["labels"] for bank in split["banks"]), strict=True)]
    everyone = {**split, **totals, "name": "all banks", "labels": counts, "prompt_length": None, "most_shifted": None}
    rows = tuple(_cells(bank, words, apart) for bank in split["banks"])
    return Table(header, (rows, (_cells(everyone, words, apart),)), _notes(split))


def _cells(bank: Mapping[str, Any], words: Sequence[str], apart: bool) -> tuple[str, ...]:
    total = sum(bank["labels"])
    shares = [count / total for count in bank["labels"]] if total else [0.0] * len(words)
    labels = [f"{share:.0%}" for share in shares]
    if len(words) > MAX_LABELS:
        most = max(range(len(words)), key=lambda index: shares[index])
        labels = [f"{words[most][:20]} {shares[most]:.0%}"]
    length = UNKNOWN if bank["prompt_length"] is None else f"{bank['prompt_length']:.0f}"
    shown = ("label_tv", "label_js", *["embedding_shift"] * apart, "feature_shift")
    distances = (human_metric(bank[name]) for name in shown)
    return (
        bank["name"],
        str(bank["train"]),
        str(bank["test"]),
        *labels,
        length,
        *distances,
        bank["most_shifted"] or UNKNOWN,
    )


def _notes(split: Split) -> tuple[str, ...]:
    apart = split["embedding_shift"] is not None
    effective = f"{split['effective']:.1f} of {len(split['banks'])}"
    return (
        f"sizes: Gini {split['gini']:.3f} (0 is equal), as spread out as {effective} equal banks",
        "label TV and JS: distance of the label shares to the pool's, from 0 to 1; of all banks: mean weighted by rows",
        *["texts: distance of the bank's mean embedding to the pool's, from 0 to 1"] * apart,
        "features: mean distance of the columns to the pool's, from 0 to 1; length: median prompt in characters",
    )


def _name(run: GridRun, telling: Sequence[str]) -> str:
    return ",".join(f"{key}={run.settings[key]}" for key in telling) or run.scenario.name
