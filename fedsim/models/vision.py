"""Residual networks trained from scratch on images with low-rank messages (FLoCoRA, 2406.14082).

train: lora   convolutions keep their random initial weights; each trains a LoRA pair A, B. Norms and the last layer are
              trained and sent whole (the paper's mode 2; it found lora_alpha = 16 r best)
train: full   every convolution is trained whole as well, from the same initial weights: what LoRA is compared with

Initial weights are drawn from ``init_seed``, so every bank has the same base without sending it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsim.core import seeds
from fedsim.core.adapter import AdapterState, factor, stack
from fedsim.core.errors import ModelError
from fedsim.core.registry import Config as PluginConfig
from fedsim.core.rows import Corpus, ImageRows
from fedsim.core.sections import Lora
from fedsim.models.base import BaseModel, CohortModel, Outline
from fedsim.models.convolution import CohortConvolution, CohortNorm, CohortWholeConvolution
from fedsim.models.hf import fold_middle
from fedsim.models.lora import CohortDense, Running, replace_module
from fedsim.models.resnet import Shape, build

Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Images ready for a forward pass."""

    images: Tensor  # (n, c, h, w) float32, normalised
    labels: Tensor  # (n,) int64


class ResNetModel(BaseModel):
    """``kind: resnet``. The adapter's tensors are ``<convolution>.A``, ``.B`` and ``head.<layer>.<parameter>``."""

    class Config(PluginConfig):
        depth: Literal[8, 18] = Field(8, description="layers: ResNet-8 or ResNet-18")
        width: int = Field(64, ge=1, description="maps of the first stage; each later stage has twice as many")
        norm_groups: int = Field(2, ge=1, description="groups of every group normalisation")
        train: Literal["lora", "full"] = Field(
            "lora", description="lora: pairs A and B, norms and last layer; full: every weight (the lora block is idle)"
        )
        channels: int = Field(3, ge=1, description="channels of the images: 3 for colour, 1 for grey")
        small_images: bool = Field(True, description="a first convolution 3 x 3; false: 7 x 7, stride 2 and pooling")
        pixel_mean: tuple[float, ...] = Field(
            (0.5,), description="taken from the pixels (from 0 to 1): one number, or one per channel"
        )
        pixel_std: tuple[Positive, ...] = Field(
            (0.25,), description="then divides the pixels: one number, or one per channel"
        )
        init_seed: int = Field(0, ge=0, description="the initial weights derive from it, not from the scenario's seed")

        @model_validator(mode="after")
        def _fits(self) -> ResNetModel.Config:
            if self.width % self.norm_groups:
                raise ValueError(f"width must be a multiple of norm_groups (got {self.width}, {self.norm_groups})")
            for knob, values in (("pixel_mean", self.pixel_mean), ("pixel_std", self.pixel_std)):
                if len(values) not in (1, self.channels):
                    raise ValueError(f"{knob} must list 1 or {self.channels} numbers (got {len(values)})")
            return self

    config: Config

    def encode(self, corpus: Corpus) -> ImageRows:
        """The images as they are; a batch is normalised when it is used."""
        if corpus.images is None:
            raise ModelError("model kind resnet reads images, but the data are texts; use model kind hf or embedded")
        found = corpus.images.shape[3]
        if found != self.config.channels:
            raise ModelError(f"model.channels is {self.config.channels}, but the images have {found}")
        return ImageRows(corpus.images, corpus.labels.astype(np.int64))

    def fingerprint(self) -> str:
        return hashlib.sha256(self.config.model_dump_json().encode()).hexdigest()

    def check(self, lora: Lora, num_labels: int) -> None:
        if lora.layers_to_transform is not None:
            raise ModelError("the convolutions of a resnet are not numbered", "lora.layers_to_transform")

    def outline(self, lora: Lora, num_labels: int) -> Outline:
        model = ImageClassifier(self.config, lora, num_labels)  # made of a seed in no time
        frozen = sum(weight.nbytes for weight in model.network.parameters())
        return Outline(model.new_adapter(0), frozen)

    def load(self, lora: Lora, num_labels: int) -> CohortModel:
        return ImageClassifier(self.config, lora, num_labels)

    def export(self, folder: Path, adapter: AdapterState, frozen: Sequence[AdapterState], lora: Lora) -> None:
        """``adapter_model.safetensors`` under fedsim's own names, and ``adapter_config.json`` to rebuild the network.

        Not PEFT's format: PEFT needs the base model in a file, and this one is a seed.
        """
        from safetensors.torch import save_file

        whole = stack([*frozen, fold_middle(adapter)], [1.0] * (len(frozen) + 1))
        heads = {name: tensor for name, tensor in adapter.tensors.items() if factor(name) == "head"}
        tensors = {name: tensor.contiguous().clone() for name, tensor in (dict(whole.tensors) | heads).items()}
        config = {"kind": "resnet", "model": self.config.model_dump(), "rank": whole.rank, "scaling": whole.scaling}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(tensors, str(folder / "adapter_model.safetensors"))


class ImageClassifier(CohortModel):
    """A residual network whose trained layers hold a bank axis."""

    def __init__(self, config: ResNetModel.Config, lora: Lora, num_labels: int) -> None:
        shape = Shape(config.depth, config.width, config.norm_groups, config.channels, num_labels, config.small_images)
        network, running = build(shape, config.init_seed).requires_grad_(False), Running()
        self.lora = lora
        self.pairs: dict[str, torch.Size] = {}  # convolution with a LoRA pair -> (c_out, c_in k k)
        self.heads: dict[str, Tensor] = {}  # initial values of what is trained whole
        for name, module in list(network.named_modules()):
            replacement = self._replacement(module, name, running, config.train == "full")
            if replacement is not None:
                replace_module(network, name, replacement)
        if config.train == "lora" and not self.pairs:
            known = ", ".join(name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
            raise ModelError(f"lora.target_modules {lora.target_modules!r} match no convolution. There are: {known}")
        super().__init__(network.to("cuda" if torch.cuda.is_available() else "cpu"), running)
        self.mean = torch.tensor(config.pixel_mean, device=self.device)[:, None, None]
        self.std = torch.tensor(config.pixel_std, device=self.device)[:, None, None]

    def _replacement(self, module: nn.Module, name: str, running: Running, full: bool) -> nn.Module | None:
        """The layer with a bank axis that takes the place of ``module``; None for one that stays."""
        if isinstance(module, nn.Conv2d) and not full:
            if not targeted(name, self.lora.target_modules):
                return None
            self.pairs[name] = module.weight.flatten(1).shape
            return CohortConvolution(module, name, running)
        if not isinstance(module, nn.Conv2d | nn.GroupNorm | nn.Linear):
            return None
        self.heads |= {f"head.{name}.{inner}": value.detach() for inner, value in module.named_parameters()}
        if isinstance(module, nn.Conv2d):
            return CohortWholeConvolution(module, name, running)
        return CohortNorm(module, name, running) if isinstance(module, nn.GroupNorm) else CohortDense(name, running)

    def new_adapter(self, seed: int) -> AdapterState:
        """A as PEFT draws it for a convolution, B zero, everything trained whole at the network's initial values."""
        r, tensors = self.lora.r, {name: value.cpu().clone() for name, value in self.heads.items()}
        for name, (c_out, d_in) in self.pairs.items():
            draws, a = seeds.generator(seed, "initial A", name), torch.empty(r, d_in)
            if self.lora.init_lora_weights == "gaussian":
                tensors[f"{name}.A"] = a.normal_(0.0, 1 / r, generator=draws)
            else:
                tensors[f"{name}.A"] = a.uniform_(-(d_in**-0.5), d_in**-0.5, generator=draws)
            tensors[f"{name}.B"] = torch.zeros(c_out, r)
        return AdapterState(tensors, r, self.lora.scaling(r))

    def batch(self, rows: ImageRows, indices: np.ndarray) -> ImageBatch:
        images = torch.from_numpy(rows.images[indices]).to(self.device).permute(0, 3, 1, 2)
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        labels = torch.from_numpy(rows.labels[indices]).to(self.device)
        return ImageBatch(((pixels - self.mean) / self.std).contiguous(), labels)

    def row_losses(self, batch: ImageBatch) -> Tensor:
        return cross_entropy(self.network(batch.images), batch.labels, reduction="none")

    def label_scores(self, rows: ImageRows, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        batch = self.batch(rows, indices)
        scores: Tensor = self.network(batch.images).double().log_softmax(-1)
        return scores.cpu(), -scores.gather(1, batch.labels[:, None]).squeeze(1).cpu()


def targeted(name: str, targets: Any) -> bool:
    """PEFT's rule: None is every one, a list gives names or their last parts, a string is a regular expression."""
    if targets is None:
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)
