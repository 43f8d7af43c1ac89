"""Losses of answers: the same whether the logits of all their tokens exist at once or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedsim.core.rows import Corpus
from fedsim.core.sections import Lora
from fedsim.models.hf import HuggingFace
from fedsim.models.lora import Cohort
from fedsim.models.tasks import CausalLM
from tests import tiny

SAVED = {"llama": (tiny.save_llama, ["q_proj", "v_proj"]), "gpt2": (tiny.save_gpt2, ["c_attn"])}


def loaded(folder, kind: str, targets: list[str] | None = None, **knobs: object):
    save, own = SAVED[kind]
    hf = HuggingFace(HuggingFace.Config(id=str(save(folder)), max_length=64, **knobs))
    return hf, hf.load(Lora(r=4, target_modules=targets or own), 0)


def losses_and_gradients(model: CausalLM, rows) -> list[torch.Tensor]:
    adapter = model.new_adapter(0)
    leaves = {n: (t + 0.01 * torch.ones_like(t))[None].requires_grad_() for n, t in adapter.tensors.items()}
    with model.using(Cohort(leaves, torch.tensor([2.0]))):
        losses = model.row_losses(model.batch(rows, np.arange(len(rows))))
        return [losses.detach(), *torch.autograd.grad(losses.sum(), list(leaves.values()))]


@pytest.mark.parametrize(("kind", "bits"), [("llama", None), ("llama", 8), ("gpt2", None)])
def test_losses_need_no_logits(tmp_path, kind: str, bits: int | None) -> None:
    hf, model = loaded(tmp_path, kind, quant_bits=bits)
    prompts, answers = ("loan of the bank", "rate", "default is high"), ("good", "the rate is low", "bad " * 7)
    rows = hf.encode(Corpus(prompts, answers, np.full(3, -1), (), np.zeros(3, dtype=bool)))
    assert isinstance(model, CausalLM)
    assert model.last is not None
    found = losses_and_gradients(model, rows)
    model.last = None
    for ours, theirs in zip(found, losses_and_gradients(model, rows), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_an_adapted_output_layer_gives_its_logits(tmp_path) -> None:
    _, model = loaded(tmp_path, "llama", ["q_proj", "lm_head"])
    assert isinstance(model, CausalLM)
    assert model.last is None
