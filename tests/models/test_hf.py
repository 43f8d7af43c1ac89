"""Tokenising rows, and what a user reads when a model cannot be used."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from fedsim.core.errors import ModelError
from fedsim.core.rows import Corpus
from fedsim.core.sections import Lora
from fedsim.models.hf import TEXTS_AT_A_TIME, HuggingFace, token_ids
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_llama(tmp_path_factory.mktemp("llama"))


def hf(folder: Path | str, **knobs: object) -> HuggingFace:
    return HuggingFace(HuggingFace.Config.model_validate({"id": str(folder), "max_length": 64, **knobs}))


@pytest.mark.parametrize(
    ("able", "asked", "dtype", "note"),
    [
        ("avx512_bf16", "auto", "bfloat16", "Base model in bfloat16 on this machine"),
        ("amx_bf16", "bfloat16", "bfloat16", None),
        ("avx2", "auto", "float32", "Base model in float32 on this machine"),
        ("avx2", "bfloat16", "bfloat16", "This CPU emulates bfloat16"),
        ("avx2", "float32", "float32", None),
    ],
)
def test_auto_is_bfloat16_where_the_cpu_multiplies_it(folder, monkeypatch, able, asked, dtype, note) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {able: True})
    model = hf(folder, dtype=asked)
    assert model.config.dtype == dtype
    assert [text[: len(note)] for text in model.notes()] == ([note] if note else [])


def test_a_row_is_its_prompt_then_its_answer(folder) -> None:
    corpus = tiny.corpus()
    rows = hf(folder).encode(corpus)
    assert len(rows) == len(corpus)
    for index in range(len(rows)):
        answer = rows.row(index)[rows.answer_starts[index] :]
        assert tuple(answer) == rows.label_ids[rows.labels[index]]


def test_a_long_prompt_loses_its_beginning_and_keeps_its_cue(folder) -> None:
    corpus = Corpus(("bank " * 100 + "rate is",), ("repaid",), np.array([0]), ("repaid", "default"), np.array([False]))
    rows = hf(folder, max_length=16).encode(corpus)
    short = hf(folder).encode(
        Corpus(("rate is",), ("repaid",), np.array([0]), ("repaid", "default"), np.array([False]))
    )
    assert len(rows.row(0)) == 16
    assert list(rows.row(0)[-3:]) == list(short.row(0))


def test_texts_are_tokenised_by_parts() -> None:
    parts: list[int] = []

    def tokenizer(texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        parts.append(len(texts))
        return {"input_ids": [[int(text)] for text in texts]}

    texts = [str(number) for number in range(TEXTS_AT_A_TIME + 3)]
    assert token_ids(tokenizer, texts) == [[number] for number in range(len(texts))]
    assert parts == [TEXTS_AT_A_TIME, 3]


def test_free_text_ends_with_the_end_token(folder) -> None:
    corpus = Corpus(("rate is", "amount is"), ("good", "bad bad"), np.array([-1, -1]), (), np.zeros(2, bool))
    rows = hf(folder).encode(corpus)
    assert [int(rows.row(i)[-1]) for i in range(2)] == [2, 2]
    assert [len(rows.row(i)) - rows.answer_starts[i] for i in range(2)] == [2, 3]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            ["qproj"],
            r"'qproj' matches nothing in model .* Did you mean 'q_proj'\? Its linear layers are called: down_proj",
        ),
        (["q_proj", "vproj"], r"'vproj' matches nothing"),
        (".*qproj", r"'\.\*qproj' matches nothing"),
        (
            ["q_proj", "embed_tokens"],
            r"'embed_tokens' matches model.embed_tokens \(Embedding\) of model .*, no linear layer",
        ),
    ],
)
def test_target_modules_that_cannot_be_adapted(folder, targets, message) -> None:
    for use in (hf(folder).check, hf(folder).load):
        with pytest.raises(ModelError, match=message) as caught:
            use(Lora(target_modules=targets), 2)
        assert caught.value.key == "lora.target_modules"


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], r".*self_attn\.[qv]_proj", "all-linear", None])
@pytest.mark.parametrize("task", ["causal_lm", "sequence_classification"])
def test_a_model_that_fits_passes_the_check_without_its_weights(folder, task, targets) -> None:
    model = hf(folder, task=task, quant_bits=4)
    model.check(Lora(target_modules=targets), 2)


def test_free_text_is_no_classification(folder) -> None:
    with pytest.raises(ModelError, match="sequence_classification needs labels"):
        hf(folder, task="sequence_classification").check(Lora(), 0)


def test_a_folder_without_weights(folder, tmp_path) -> None:
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, tmp_path)
    with pytest.raises(ModelError, match=r"has no \*\.safetensors weights"):
        hf(tmp_path).load(Lora(target_modules=["q_proj"]), 2)


def test_a_folder_without_a_tokenizer(folder, tmp_path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, tmp_path)
    with pytest.raises(ModelError, match=r"has no tokenizer \(tokenizer\.json, "):
        hf(tmp_path).check(Lora(target_modules=["q_proj"]), 2)


def test_weights_that_are_cut_short(folder, tmp_path) -> None:
    shutil.copytree(folder, tmp_path / "cut")
    file = tmp_path / "cut" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"model\.safetensors are damaged \(.*\); copy or download them again"):
        hf(tmp_path / "cut").check(Lora(target_modules=["q_proj"]), 2)


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch) -> None:
    asked = []

    def refuse(url, timeout):
        asked.append(url)
        raise URLError("no network")

    monkeypatch.setattr("fedsim.models.libraries.urlopen", refuse)
    with pytest.raises(ModelError, match=r"model 'no/model' is not on this machine, and https://.* cannot be reached"):
        hf("no/model").encode(tiny.corpus())
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("./nowhere", "no model folder './nowhere'"),
        ("package:no_such_package/model", "the Python package 'no_such_package' is not installed"),
    ],
)
def test_a_model_that_is_not_there(reference, message) -> None:
    with pytest.raises(ModelError, match=message):
        hf(reference).load(Lora(), 2)


def test_the_fingerprint_follows_the_tokenizer(folder, tmp_path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert hf(folder).fingerprint() != hf(folder, max_length=32).fingerprint()
    changed = tmp_path / "copy" / "tokenizer.json"
    changed.write_text(changed.read_text().replace('"loan"', '"lend"'))
    first = HuggingFace(HuggingFace.Config(id=str(tmp_path / "copy"), max_length=64)).fingerprint()
    changed.write_text(changed.read_text().replace('"lend"', '"loan"'))
    assert HuggingFace(HuggingFace.Config(id=str(tmp_path / "copy"), max_length=64)).fingerprint() != first
