"""The workloads: a tiny Llama with random weights, LoRA of rank 8 on q_proj and v_proj, batches of 8 rows of 48 tokens.

Written to a folder as what a user has: a model folder, a data file and a scenario file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.core import seeds
from fedsim.models.random_llama import LlamaShape, save_random_llama

VOCABULARY, TOKENS, BATCH_ROWS = 512, 48, 8
TEST_ROWS = 8
FEED_FORWARD = 2.6875  # intermediate over hidden size, as in Llama


@dataclass(frozen=True, slots=True)
class Workload:
    """``banks`` are registered, ``sampled`` of them train in every round, in ``steps`` local steps."""

    hidden: int
    layers: int
    banks: int
    sampled: int
    steps: int
    rounds: int
    is_private: bool
    dtype: str = "float32"

    @property
    def tokens_per_round(self) -> int:
        return self.sampled * self.steps * BATCH_ROWS * TOKENS


WORKLOADS = {
    "W1": Workload(64, 2, banks=64, sampled=64, steps=2, rounds=10, is_private=True),
    "W2": Workload(64, 2, banks=64, sampled=64, steps=2, rounds=10, is_private=False),
    "W3": Workload(256, 4, banks=8, sampled=8, steps=4, rounds=5, is_private=True),
    "W3n": Workload(256, 4, banks=8, sampled=8, steps=4, rounds=5, is_private=False),
    "W4": Workload(64, 2, banks=1000, sampled=20, steps=2, rounds=20, is_private=False),
}


def write(workload: Workload, folder: Path) -> Path:
    """The scenario file, with its model and its data beside it."""
    shape = LlamaShape(
        hidden_size=workload.hidden,
        intermediate_size=int(workload.hidden * FEED_FORWARD),
        num_hidden_layers=workload.layers,
        num_attention_heads=8,
        vocab_size=VOCABULARY,
    )
    save_random_llama(folder / "model", shape)
    _write_rows(workload, folder / "rows.jsonl")
    file = folder / "scenario.yaml"
    file.write_text(json.dumps(_scenario(workload)), encoding="utf-8")  # JSON is YAML
    return file


def _write_rows(workload: Workload, file: Path) -> None:
    """As many rows at every bank as its local steps take, and a few test rows at the first."""
    per_bank = workload.steps * BATCH_ROWS
    count = workload.banks * per_bank + TEST_ROWS
    tokens = seeds.rng(0, "benchmark rows").integers(2, VOCABULARY, (count, TOKENS))
    banks = np.append(np.repeat(np.arange(workload.banks), per_bank), np.zeros(TEST_ROWS, dtype=np.int64))
    with file.open("w", encoding="utf-8") as stream:
        for number, (row, bank) in enumerate(zip(tokens, banks, strict=True)):
            first, *rest = (f"t{token}" for token in row)
            split = "train" if number < count - TEST_ROWS else "test"
            record = {"prompt": first, "answer": " ".join(rest), "bank": f"bank-{bank:05d}", "split": split}
            stream.write(json.dumps(record) + "\n")


def _scenario(workload: Workload) -> dict[str, Any]:
    private = {"kind": "dp_sgd", "noise_multiplier": 0.5, "max_grad_norm": 1.0, "dp_delta": 1e-5}
    return {
        "name": "benchmark",
        "num_rounds": workload.rounds,
        "client_fraction": workload.sampled / workload.banks,
        "data": {
            "kind": "jsonl",
            "path": "rows.jsonl",
            "text": "{prompt}",
            "answer": "answer",
            "test": {"column": "split", "value": "test"},
        },
        "partition": {"kind": "by_column", "column": "bank", "num_banks": workload.banks},
        "model": {"kind": "hf", "id": "./model", "max_length": TOKENS, "dtype": workload.dtype},
        "lora": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
        "train": {
            "local_steps": workload.steps,
            "batch_size": BATCH_ROWS,
            "sampling": "fixed",
            "optimizer": "sgd",
            "lr": 0.1,
            "max_rows": 128,  # a cohort of 16 banks in one pass
        },
        "privacy": private if workload.is_private else {"kind": "none"},
        "evaluate": {"every": workload.rounds, "per_bank": False},
    }
