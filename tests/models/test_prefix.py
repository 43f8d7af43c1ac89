"""What lies below the lowest adapted layer is run once per row, and nobody can tell from the numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.core.errors import ModelError
from fedsim.core.rows import Corpus
from fedsim.core.sections import Lora
from fedsim.models import prefix
from fedsim.models.hf import HuggingFace
from fedsim.models.lora import Cohort
from fedsim.models.tasks import HuggingFaceTask
from fedsim.models.vision import ResNetModel
from tests import tiny

TARGETS = {"llama": ["q_proj", "v_proj"], "bert": ["query", "value"], "gpt2": ["c_attn"]}
TASKS = {"llama": "causal_lm", "bert": "sequence_classification", "gpt2": "causal_lm"}
ROWS = np.arange(12)
KINDS = [("llama", None), ("llama", 4), ("llama", 8), ("bert", None), ("bert", 8), ("gpt2", None)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        kind: save(tmp_path_factory.mktemp(kind))
        for kind, save in (("llama", tiny.save_llama), ("bert", tiny.save_bert), ("gpt2", tiny.save_gpt2))
    }


def load(folders: dict[str, Path], kind: str, bits: int | None = None, layers: tuple[int, ...] = (1,)):
    hf = HuggingFace(HuggingFace.Config(id=str(folders[kind]), task=TASKS[kind], quant_bits=bits, max_length=64))
    model = hf.load(Lora(r=4, target_modules=TARGETS[kind], layers_to_transform=layers), 2)
    assert isinstance(model, HuggingFaceTask)
    return hf, model


def groups(size: int = 4) -> list[np.ndarray]:
    return np.split(ROWS, range(size, len(ROWS), size))


def gradients(model: HuggingFaceTask, rows, indices: np.ndarray) -> list[torch.Tensor]:
    """Losses, scores and gradients under an adapter whose B is not zero."""
    adapter = model.new_adapter(0)
    leaves = {n: (t + 0.01 * torch.ones_like(t))[None].requires_grad_() for n, t in adapter.tensors.items()}
    with model.using(Cohort(leaves, torch.tensor([2.0]))):
        losses = model.row_losses(model.batch(rows, indices))
        grads = torch.autograd.grad(losses.sum(), list(leaves.values()))
        with torch.no_grad():
            scores, _ = model.label_scores(rows, indices)
    return [losses.detach(), scores, *grads]


def count_calls(model: HuggingFaceTask) -> list[int]:
    """The number of rows of every call of the lowest block."""
    seen: list[int] = []
    assert model.prefix is not None
    skippable = next(m for m in model.network.modules() if isinstance(m, prefix._Skippable))
    skippable.block.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    return seen


def close(ours: list[torch.Tensor], theirs: list[torch.Tensor], most: float = 1e-5) -> bool:
    return all(float((a - b).abs().max()) <= most * float(b.abs().max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_held_rows_give_the_same_losses_scores_and_gradients(folders, kind, bits) -> None:
    hf, model = load(folders, kind, bits)
    rows = hf.encode(tiny.corpus())
    plain = gradients(model, rows, ROWS)
    model.remember(rows, groups(), [])
    assert close(gradients(model, rows, ROWS), plain)
    assert model.held is not None


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_row_passes_the_frozen_part_once(folders, kind) -> None:
    hf, model = load(folders, kind)
    rows = hf.encode(tiny.corpus())
    model.remember(rows, groups(), [])
    gradients(model, rows, ROWS[:5])  # rows of two groups, and once the proof
    seen = count_calls(model)
    gradients(model, rows, ROWS[:8])
    assert seen == []
    gradients(model, rows, ROWS)
    assert seen == [4]


def test_the_next_run_on_the_same_rows_finds_them_held_and_any_other_does_not(folders) -> None:
    hf, model = load(folders, "bert")
    rows = hf.encode(tiny.corpus())
    model.remember(rows, groups(), [])
    gradients(model, rows, ROWS)
    held = model.held
    model.remember(rows, groups(), [])
    assert model.held is held
    model.remember(rows, groups()[:2], [])
    assert model.held is not held
    held = model.held
    model.remember(hf.encode(tiny.corpus()), groups()[:2], [])
    assert model.held is not held


def test_bits_do_not_depend_on_who_asks_first(folders) -> None:
    found = []
    for before in ([], [11, 2], [7]):
        hf, model = load(folders, "bert")
        rows = hf.encode(tiny.corpus())
        model.remember(rows, groups(), [])
        for index in before:
            gradients(model, rows, np.array([index]))
        found.append(gradients(model, rows, ROWS))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize("room", [0, 1, 2])
def test_rows_beyond_the_limit_are_computed_with_their_batch(folders, monkeypatch, kind, room) -> None:
    hf, model = load(folders, kind)
    rows = hf.encode(tiny.corpus())
    plain = gradients(model, rows, ROWS)
    tokens = sum(rows.lengths(group).sum() for group in groups()[:room])
    monkeypatch.setattr(prefix, "MOST_BYTES", int(tokens) * 64 * 4)
    model.remember(rows, groups(), [])
    assert close(gradients(model, rows, ROWS), plain)
    assert model.held is not None
    assert model.held.known(ROWS).sum() == 4 * room


def test_label_words_of_several_tokens_are_texts_of_their_own(folders) -> None:
    corpus = tiny.corpus()
    words = ("repaid", "default loan")
    answers = tuple(words[label] for label in corpus.labels)
    corpus = Corpus(corpus.prompts, answers, corpus.labels, words, corpus.test, corpus.columns)
    hf, model = load(folders, "llama")
    rows = hf.encode(corpus)
    plain = gradients(model, rows, ROWS)
    model.remember(rows, groups(), [])
    training = gradients(model, rows, ROWS)
    model.remember(rows, [], groups())
    scoring = gradients(model, rows, ROWS)
    assert close(training, plain)
    assert close(scoring, plain)
    seen = count_calls(model)
    with torch.no_grad(), model.using(Cohort(*one_leaf(model))):
        model.label_scores(rows, ROWS)
    assert seen == []


def one_leaf(model: HuggingFaceTask) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    return {name: tensor[None] for name, tensor in model.new_adapter(0).tensors.items()}, torch.ones(1)


def test_a_network_that_hands_on_more_than_activations_holds_nothing(folders) -> None:
    hf, model = load(folders, "bert")
    rows = hf.encode(tiny.corpus())
    blocks = model.network.bert.encoder.layer
    side: dict[str, torch.Tensor] = {}  # from the first block to the second, past the activations
    blocks[0].block.register_forward_hook(lambda module, args, out: side.update(first=out[0, 0]))
    blocks[1].register_forward_hook(lambda module, args, out: out * side["first"])
    plain = gradients(model, rows, ROWS)
    model.remember(rows, groups(), [])
    assert close(gradients(model, rows, ROWS), plain)
    assert model.held is None


def test_nothing_lies_below_the_first_layer(folders) -> None:
    hf, model = load(folders, "llama", layers=(0, 1))
    assert model.prefix is None
    model.remember(hf.encode(tiny.corpus()), groups(), [])
    assert model.held is None


@pytest.mark.parametrize("layers", [(1, 5), (2,)])
def test_a_layer_that_does_not_exist(folders, layers) -> None:
    with pytest.raises(ModelError, match=rf"has no layer {layers[-1]} with modules of lora\.target_modules") as caught:
        load(folders, "llama", layers=layers)
    assert caught.value.key == "lora.layers_to_transform"


def test_a_resnet_has_no_numbered_layers() -> None:
    with pytest.raises(ModelError, match="not numbered"):
        ResNetModel(ResNetModel.Config()).check(Lora(layers_to_transform=(1,)), 2)


def test_a_batch_in_part(folders) -> None:
    hf, model = load(folders, "llama")
    batch = model.batch(hf.encode(tiny.corpus()), ROWS)
    part = batch.take(np.array([3, 1]))
    assert torch.equal(part.input_ids, batch.input_ids[[3, 1]])
    assert list(part.ids) == [3, 1]
