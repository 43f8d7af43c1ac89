"""Residual networks as a base model: what is trained, sent, read and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from fedsim.core.adapter import AdapterState, product
from fedsim.core.errors import ModelError
from fedsim.core.rows import Corpus, ImageRows
from fedsim.core.sections import Lora
from fedsim.models.hf import HuggingFace
from fedsim.models.lora import Cohort
from fedsim.models.resnet import Shape, build
from fedsim.models.vision import ImageClassifier, ResNetModel
from tests import tiny

CONVOLUTIONS = {8: 9, 18: 20}


def load(lora: Lora | None = None, **knobs: Any) -> ImageClassifier:
    model = ResNetModel(ResNetModel.Config(**{"width": 4, **knobs})).load(lora or Lora(r=2, lora_alpha=32), 10)
    assert isinstance(model, ImageClassifier)
    return model


def rows(channels: int = 3) -> ImageRows:
    rng = np.random.default_rng(0)
    return ImageRows(rng.integers(0, 256, (6, 8, 8, channels), dtype=np.uint8), np.arange(6) % 3)


def logits(model: ImageClassifier, adapter: AdapterState, images: torch.Tensor) -> torch.Tensor:
    leaves = {name: tensor[None] for name, tensor in adapter.tensors.items()}
    with torch.no_grad(), model.using(Cohort(leaves, torch.tensor([adapter.scaling]))):
        out: torch.Tensor = model.network(images)
    return out


@pytest.mark.parametrize(
    ("depth", "train", "r", "count"),
    [(8, "lora", 32, 258_026), (8, "full", 32, 1_227_594), (18, "lora", 64, 2_306_122), (18, "full", 64, 11_173_962)],
)
def test_trained_parameters_are_those_of_the_paper(depth, train, r, count) -> None:
    adapter = load(Lora(r=r, lora_alpha=16 * r), depth=depth, train=train, width=64).new_adapter(0)
    assert sum(tensor.numel() for tensor in adapter.tensors.values()) == count
    assert adapter.scaling == 16


@pytest.mark.parametrize("depth", [8, 18])
def test_every_convolution_has_a_pair_and_norms_and_last_layer_are_whole(depth) -> None:
    names = set(load(depth=depth).new_adapter(0).tensors)
    assert sum(name.endswith(".A") for name in names) == CONVOLUTIONS[depth]
    assert sum(name.endswith("norm.weight") for name in names) == CONVOLUTIONS[depth]
    assert {
        "stem.conv.A",
        "stem.conv.B",
        "stages.1.0.shortcut.conv.A",
        "head.stem.norm.bias",
        "head.fc.weight",
    } <= names


def test_a_fresh_adapter_leaves_the_network_as_it_was_built() -> None:
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for train in ("lora", "full"):
        model = load(train=train, init_seed=5)
        plain = build(Shape(8, 4, 2, 3, 10, True), 5)
        torch.testing.assert_close(logits(model, model.new_adapter(1), images), plain(images).detach())


def test_initial_values_depend_on_their_seeds() -> None:
    one, same, other = (load().new_adapter(seed).tensors for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert {name for name in one if not torch.equal(one[name], other[name])} == {n for n in one if n.endswith(".A")}
    assert float(one["stem.conv.A"].abs().max()) <= 27**-0.5
    assert float(load(Lora(r=4, init_lora_weights="gaussian")).new_adapter(0).tensors["stem.conv.A"].abs().max()) > 0.3


def test_target_modules_choose_convolutions() -> None:
    def pairs(targets: list[str] | str) -> list[str]:
        adapter = load(Lora(r=2, target_modules=targets)).new_adapter(0)
        return sorted(name[:-2] for name in adapter.tensors if name.endswith(".A"))

    assert pairs(["second.conv"]) == [f"stages.{stage}.0.second.conv" for stage in range(3)]
    assert pairs(r"stem.*|stages\.2.*shortcut\.conv") == ["stages.2.0.shortcut.conv", "stem.conv"]
    with pytest.raises(ModelError, match=r"target_modules \['q_proj'\] match no convolution.*stem\.conv"):
        pairs(["q_proj"])


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"width": 3}, "width must be a multiple of norm_groups"),
        ({"pixel_mean": [0.5, 0.5]}, "pixel_mean must list 1 or 3 numbers"),
        ({"pixel_std": [0.0]}, "greater than 0"),
        ({"depth": 20}, "8 or 18"),
    ],
)
def test_knobs_that_make_no_network(knobs: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ResNetModel.Config(**knobs)


def image_corpus(channels: int) -> Corpus:
    data = rows(channels)
    words = ("cat", "dog", "fox")
    return Corpus(("",) * 6, tuple(words[i] for i in data.labels), data.labels, words, data.labels < 0, {}, data.images)


def test_rows_of_another_kind_are_refused() -> None:
    model = ResNetModel(ResNetModel.Config())
    assert len(model.encode(image_corpus(3))) == 6
    with pytest.raises(ModelError, match="the data are texts"):
        model.encode(tiny.corpus())
    with pytest.raises(ModelError, match=r"model\.channels is 3, but the images have 1"):
        model.encode(image_corpus(1))
    with pytest.raises(ModelError, match="the data are images"):
        HuggingFace(HuggingFace.Config(id="any")).encode(image_corpus(3))


def test_pixels_are_scaled_to_one_and_then_normalised() -> None:
    model = load(pixel_mean=[0.0, 0.5, 1.0], pixel_std=[0.5])
    white = ImageRows(np.full((2, 8, 8, 3), 255, dtype=np.uint8), np.zeros(2, dtype=np.int64))
    batch = model.batch(white, np.array([1]))
    assert batch.images.shape == (1, 3, 8, 8)
    assert batch.images[0, :, 0, 0].tolist() == [2.0, 1.0, 0.0]
    as_it_is = ImageRows(np.full((2, 8, 8, 3), 2.0, dtype=np.float32), np.zeros(2, dtype=np.int64))
    assert model.batch(as_it_is, np.array([0])).images[0, :, 0, 0].tolist() == [4.0, 3.0, 2.0]


def test_scores_are_log_probabilities_of_every_class() -> None:
    model = load(width=6, norm_groups=3)
    adapter = model.new_adapter(0)
    leaves = {name: tensor[None] for name, tensor in adapter.tensors.items()}
    with torch.no_grad(), model.using(Cohort(leaves, torch.tensor([adapter.scaling]))):
        scores, nll = model.label_scores(rows(), np.array([4, 1]))
    assert scores.shape == (2, 10)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(2, dtype=torch.float64))
    assert nll.tolist() == [-scores[0, 1], -scores[1, 1]]  # rows 4 and 1 are of class 1


def test_frozen_adapters_change_the_network_as_their_product_does() -> None:
    model = load()
    start = model.new_adapter(0)
    draws = torch.Generator().manual_seed(1)
    trained = start.with_tensors(
        {n: torch.randn(t.shape, generator=draws) for n, t in start.tensors.items() if n.endswith(".B")}
    )
    images = torch.randn(2, 3, 8, 8, generator=draws)
    direct = logits(model, trained, images)
    model.set_frozen([trained])
    torch.testing.assert_close(logits(model, start, images), direct, rtol=1e-4, atol=1e-4)


def test_the_exported_folder_holds_products_heads_and_how_to_rebuild_the_base(tmp_path: Path) -> None:
    model = ResNetModel(ResNetModel.Config(width=4, init_seed=7))
    start = load().new_adapter(0)
    first = start.with_tensors({name: tensor + 1 for name, tensor in start.tensors.items()})
    model.export(tmp_path, start.with_tensors({"stem.conv.B": torch.ones(4, 2)}), [first], Lora(r=2))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["kind"], config["model"]["init_seed"], config["rank"]) == ("resnet", 7, 4)
    whole = AdapterState(load_file(tmp_path / "adapter_model.safetensors"), config["rank"], config["scaling"])
    assert whole.tensors.keys() == start.tensors.keys()
    last = start.with_tensors({"stem.conv.B": torch.ones(4, 2)})
    expected = product(first, "stem.conv") + product(last, "stem.conv")
    torch.testing.assert_close(product(whole, "stem.conv"), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(whole.tensors["head.fc.weight"], start.tensors["head.fc.weight"])
