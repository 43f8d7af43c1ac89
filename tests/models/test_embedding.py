"""Mean-pooled hidden states of the frozen base, and where they are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.core.errors import ModelError
from fedsim.models import MODELS
from fedsim.models import embedding as module
from fedsim.models.embedding import embeddings
from fedsim.models.hf import HuggingFace
from tests import tiny


@pytest.fixture(scope="module", params=["llama", "bert"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    save = {"llama": tiny.save_llama, "bert": tiny.save_bert}[request.param]
    return save(tmp_path_factory.mktemp(request.param))


def hf(folder: Path) -> HuggingFace:
    return HuggingFace(HuggingFace.Config(id=str(folder), max_length=64))


def test_each_text_alone_gives_what_it_gives_among_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModel, AutoTokenizer

    monkeypatch.setattr(module, "BATCH_TOKENS", 32)  # several batches, ragged ones among them
    texts = tiny.corpus(9).prompts
    found = hf(folder).embed(texts)
    assert found.shape == (9, 64)
    assert found.dtype == np.float32
    network, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for text, own in zip(texts, found, strict=True):
        with torch.no_grad():
            hidden = network(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state
        assert own == pytest.approx(hidden[0].mean(dim=0).numpy(), abs=1e-5)


def test_embeddings_of_many_texts_are_made_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", 5)
    model, corpus = hf(folder), tiny.corpus(6)
    first = embeddings(model, corpus, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(HuggingFace, "embed", None)  # not called again
        assert np.array_equal(embeddings(model, corpus, tmp_path), first)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"damaged")
    assert np.array_equal(embeddings(model, corpus, tmp_path), first)


def test_a_model_of_images_has_none() -> None:
    with pytest.raises(ModelError, match="reads no text"):
        embeddings(MODELS.create("resnet", {}), tiny.corpus(2))
