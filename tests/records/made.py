"""Run directories as runs leave them, from a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from fedsim.records.files import to_json

SCENARIO = {
    "name": "made",
    "num_rounds": 2,
    "data": {"kind": "digits"},
    "model": {"kind": "embedded"},
    "partition": {"kind": "iid", "num_banks": 2},
    "lora": {"r": 8, "lora_alpha": 16},
    "privacy": {"kind": "none"},
    "upload": [{"kind": "topk", "density": 0.1}, {"kind": "affine", "bits": 8}],
    "download": [],
}


ORACLE: dict[str, Any] = {"oracle": {}}


def bank(auc: float, bytes_up: int = 100, epsilon: float | None = None) -> dict[str, Any]:
    spend = {"sample_rate": 0.1, "noise_multiplier": 0.0 if epsilon is None else 1.0, "num_steps": 4}
    told = {
        "auc": auc,
        "accuracy": auc,
        "num_train": 10,
        "epsilon": epsilon,
        "delta": None if epsilon is None else 1e-5,
    }
    return {**told, "spend": spend, "bytes_up": bytes_up, "bytes_down": 50}


def make_run(folder: Path, strategy: str, seed: int, banks: Mapping[str, dict[str, Any]], **changes: object) -> Path:
    """A run whose global metric is the mean over its banks; ``changes`` are of the scenario, ``baselines`` too."""
    baselines = changes.pop("baselines", None)
    status = changes.pop("status", "completed")
    folder.mkdir(parents=True)
    with (folder / "scenario.yaml").open("w") as file:
        YAML().dump({**SCENARIO, "seed": seed, "strategy": {"kind": strategy}, **changes}, file)
    auc = float(np.mean([one["auc"] for one in banks.values()]))
    epsilons = [one["epsilon"] for one in banks.values()]
    summary = {
        "run_dir": str(folder),
        "status": status,
        "rounds": 2,
        "metrics": {"auc": auc, "accuracy": auc},
        "banks": dict(banks),
        "epsilon": None if None in epsilons else max(epsilons),
        "bytes_up": sum(one["bytes_up"] for one in banks.values()),
        "bytes_down": sum(one["bytes_down"] for one in banks.values()),
        "seconds": 1.0,
        **({"baselines": baselines} if baselines else {}),
    }
    (folder / "summary.json").write_text(to_json(summary))
    (folder / "environment.json").write_text(to_json({"python": "3.11", "packages": {"torch": "2.6"}, "seed": seed}))
    rounds = [
        {
            "schema_version": 1,
            "round": index,
            "num_rounds": 2,
            "metrics": {"auc": auc - 0.1 * (2 - index)},
            "oracle": {},
        }
        | {"epsilon": None, "bytes_up": 100 * index, "bytes_down": 50 * index, "seconds": 0.5}
        for index in range(3)
    ]
    (folder / "rounds.jsonl").write_text("".join(to_json(row) + "\n" for row in rounds))
    (folder / "banks.jsonl").write_text(
        "".join(
            to_json({"round": index, "bank": name, "participated": index > 0, "metrics": {"auc": one["auc"]}} | ORACLE)
            + "\n"
            for index in range(3)
            for name, one in banks.items()
        )
    )
    work = [
        {"round": index, "bank": name, "actor": f"a{place % 2}", "start": 1e9 + index, "seconds": 0.5}
        for index in (1, 2)
        for place, name in enumerate(banks)
    ]
    (folder / "timeline.jsonl").write_text("".join(to_json(line) + "\n" for line in work))
    counts = [{"name": name, "train": 8, "test": 2, "labels": [index, 10 - index]} for index, name in enumerate(banks)]
    split = {"label_words": ["repaid", "default"], "banks": counts, "gini": 0.0, "effective": float(len(banks))}
    (folder / "split.json").write_text(to_json(split | {"label_tv": 0.1, "label_js": 0.02, "feature_shift": None}))
    return folder
