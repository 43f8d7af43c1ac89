"""The base model that ships: complete, small, as its manifest says, and made by the script beside it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.core.rows import Corpus
from fedsim.models import MODELS
from fedsim.models.embedded.pretrain import ARCHITECTURE, FILES, Plan, learning_rate, pretrain
from fedsim.models.embedded.text import ANSWERS, NUMBERS, Writer

FOLDER = Path(MODELS.create("embedded", {}).source)
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)


@pytest.fixture(scope="module")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folder written twice on a tiny budget."""
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "again")]
    for folder in folders:
        pretrain(folder, Plan(steps=2, batch_size=2))
    return folders


def test_the_folder_is_complete_and_at_most_4_mb() -> None:
    assert sum((FOLDER / name).stat().st_size for name in FILES) <= 4_000_000


def test_the_files_are_the_ones_in_the_manifest() -> None:
    assert MANIFEST["sha256"] == {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in FILES}


def test_it_was_made_with_the_defaults_of_the_script() -> None:
    assert {"seed": MANIFEST["seed"], "steps": MANIFEST["steps"]} == {"seed": Plan().seed, "steps": Plan().steps}


def test_it_loads_offline_and_prefers_right_answers(tokenizer) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(FOLDER, local_files_only=True)
    assert model.dtype == torch.float32
    assert not any(torch.isnan(parameter).any() for parameter in model.parameters())
    for text, right, wrong in [("debt 90%:", " heavy", " light"), ("debt 5%:", " light", " heavy")]:
        logits = model(**tokenizer(text, return_tensors="pt")).logits[0, -1]
        ids = tokenizer([right, wrong])["input_ids"]
        assert logits[ids[0][0]] > logits[ids[1][0]]


def test_answer_words_and_numbers_below_100_are_single_tokens(tokenizer) -> None:
    texts = [f" {word}" for word in ANSWERS] + [f"{lead}{n}" for n in range(100) for lead in ("", " ")]
    assert {len(ids) for ids in tokenizer(texts)["input_ids"]} == {1}


def test_any_text_survives_the_tokenizer(tokenizer) -> None:
    text = "Größe: 1,234,567 € / \t café — 合计\nAnswer: repaid"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_loan_of_the_loan_book_takes_25_to_45_tokens(tokenizer) -> None:
    from fedsim.data import SOURCES

    corpus = SOURCES.create("loan_book", {"rows_per_bank": 50}).load(0)
    rows = MODELS.create("embedded", {}).encode(corpus)
    lengths = np.diff(rows.offsets)
    assert lengths.min() >= 25
    assert lengths.max() <= 45
    assert [len(word) for word in rows.label_ids] == [1, 1]


def test_the_script_writes_the_same_bytes_again(tiny_runs: list[Path]) -> None:
    first, again = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in tiny_runs)
    assert first == again
    assert set(first) == {*FILES, "manifest.json"}


def test_the_script_writes_the_shipped_tokenizer_and_architecture(tiny_runs: list[Path]) -> None:
    for name in FILES:
        if name == "model.safetensors":
            continue
        shipped, written = (json.loads((folder / name).read_text()) for folder in (FOLDER, tiny_runs[0]))
        for version in ("version", "transformers_version"):
            shipped.pop(version, None), written.pop(version, None)
        assert written == shipped, name
    assert all(size % 64 == 0 for name, size in ARCHITECTURE.items() if name.endswith("size"))


def test_another_seed_gives_other_weights(tmp_path: Path, tiny_runs: list[Path]) -> None:
    pretrain(tmp_path, Plan(seed=8, steps=2, batch_size=2))
    weights = "model.safetensors"
    assert (tmp_path / weights).read_bytes() != (tiny_runs[0] / weights).read_bytes()


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    plan = Plan(steps=1100, warmup=100, lr=0.1)
    rates = [learning_rate(plan, step) for step in (0, 99, 100, 600, 1100)]
    assert rates == pytest.approx([0.001, 0.1, 0.1, 0.05, 0.0])


def test_the_text_says_nothing_about_how_a_loan_ends() -> None:
    """The only words for an outcome are coin tosses: independent of every attribute that the text describes."""
    outcomes, values = [], {field.name: [] for field in NUMBERS}
    for document in Writer(1, "test").documents(20_000):
        for outcome in re.findall(r"Outcome: (repaid|default)", document):
            outcomes.append(outcome == "default")
            for field in NUMBERS:
                found = re.search(re.escape(field.text).replace(r"\{\}", r"(\d+)"), document)
                values[field.name].append(int(found[1]) if found else np.nan)
        assert len(re.findall(r"repaid|default", document)) == len(re.findall(r"Outcome: (repaid|default)", document))
    coins = np.array(outcomes, dtype=float)
    assert len(coins) > 2000
    assert abs(coins.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(coins))
    for name, column in values.items():
        there = ~np.isnan(column)
        assert abs(np.corrcoef(coins[there], np.array(column)[there])[0, 1]) < 4 / np.sqrt(there.sum()), name


def test_it_knows_nothing_about_the_loan_book_before_training(tokenizer) -> None:
    from sklearn.metrics import roc_auc_score
    from transformers import AutoModelForCausalLM

    from fedsim.data import SOURCES

    corpus: Corpus = SOURCES.create("loan_book", {"rows_per_bank": 250}).load(0)
    model = AutoModelForCausalLM.from_pretrained(FOLDER, local_files_only=True)
    repaid, default = (ids[0] for ids in tokenizer([" repaid", " default"])["input_ids"])
    with torch.no_grad():
        logits = model(**tokenizer(list(corpus.prompts), return_tensors="pt", padding=True)).logits[:, -1]
    assert 0.4 < roc_auc_score(corpus.labels, (logits[:, default] - logits[:, repaid]).numpy()) < 0.6
