"""A base that is read from disk and quantised: ``python -m tests.benchmarks.reload MODEL_FOLDER [FLOWER_PYTHON]``.

Twelve banks fine-tune a BERT-like encoder in 8 bits, plain SGD, without DP: ``fedsim run`` on Ray, then, where the
Python of an environment with Flower is given, ``flower_reload`` with it, in which every fit loads the base anew. One
JSON line each, with the keys of ``fedsim bench``.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

WORK = {"banks": 12, "rounds": 4, "steps": 2, "rows": 8, "tokens": 32, "r": 8}


def line(framework: str, start: float, times: Sequence[float]) -> str:
    """``times`` are of the end of what comes before round 1 and of each round."""
    median = statistics.median(np.diff(times))
    figures = {
        "framework": framework,
        "total_s": round(times[-1] - start, 3),
        "first_round_done_s": round(times[1] - start, 3),
        "median_round_s": round(median, 4),
        "client_updates_per_s": round(WORK["banks"] / median, 3),
    }
    return json.dumps(figures)


def scenario(folder: Path, model: str) -> Path:
    """The workload as a scenario file with its rows: words that are one token each, as many as fill a row."""
    draws = np.random.default_rng(0)
    words = ["bank", "loan", "rate", "month", "house", "year", "credit", "risk", "price", "market"]
    per_bank = WORK["steps"] * WORK["rows"]
    records = [
        {
            "text": " ".join(draws.choice(words, WORK["tokens"] - 2)),
            "label": str(draws.choice(["no", "yes"])),
            "bank": f"bank-{number % WORK['banks']:02d}",
            "split": "train" if number < WORK["banks"] * per_bank else "test",
        }
        for number in range(WORK["banks"] * (per_bank + 1))
    ]
    pd.DataFrame(records).to_json(folder / "rows.jsonl", orient="records", lines=True)
    values = {
        "name": "reload",
        "num_rounds": WORK["rounds"],
        "data": {
            "kind": "jsonl",
            "path": "rows.jsonl",
            "text": "{text}",
            "label": "label",
            "test": {"column": "split", "value": "test"},
        },
        "partition": {"kind": "by_column", "column": "bank", "num_banks": WORK["banks"]},
        "model": {
            "kind": "hf",
            "id": model,
            "task": "sequence_classification",
            "max_length": WORK["tokens"],
            "quant_bits": 8,
        },
        "lora": {"r": WORK["r"], "lora_alpha": 16, "target_modules": ["query", "value"]},
        "train": {
            "local_steps": WORK["steps"],
            "batch_size": WORK["rows"],
            "sampling": "fixed",
            "optimizer": "sgd",
            "lr": 0.01,
        },
        "evaluate": {"every": WORK["rounds"], "per_bank": False},
    }
    file = folder / "scenario.yaml"
    file.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return file


def fedsim(model: str) -> str:
    from fedsim.build.run import run
    from fedsim.core.events import RoundRow

    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        events = run(scenario(Path(folder), model), out=Path(folder) / "run")
        times = [time.time() for event in events if isinstance(event, RoundRow)]
    return line("fedsim", start, times)


def flower(python: str, model: str) -> str:
    """RuntimeError with what it printed, where it failed."""
    work: dict[str, Any] = {**WORK, "model": model}
    start = time.time()
    command = [python, str(Path(__file__).with_name("flower_reload.py")), json.dumps(work)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [text for text in ended.stdout.splitlines() if text.startswith("[") and text.endswith("]")]
    if not found:
        raise RuntimeError(ended.stderr[-3000:])
    return line("Flower, the base loaded in every fit", start, json.loads(found[-1]))


def main() -> None:
    model, *pythons = sys.argv[1:]
    print(fedsim(model), flush=True)
    for python in pythons:
        print(flower(python, model), flush=True)


if __name__ == "__main__":
    main()
