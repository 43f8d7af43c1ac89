"""The exported folder is PEFT's: loading it with PEFT gives the logits that fedsim evaluates."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.core.adapter import AdapterState
from fedsim.core.rows import TokenRows
from fedsim.core.sections import Lora
from fedsim.models.hf import HuggingFace
from fedsim.models.lora import Cohort
from tests import tiny

TARGETS = {"causal_lm": ["q_proj", "v_proj"], "sequence_classification": ["query", "value"]}
ROWS = np.arange(6)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        "causal_lm": tiny.save_llama(tmp_path_factory.mktemp("llama")),
        "sequence_classification": tiny.save_bert(tmp_path_factory.mktemp("bert")),
    }


def randomised(adapter: AdapterState, seed: int) -> AdapterState:
    generator = torch.Generator().manual_seed(seed)
    return adapter.with_tensors(
        {n: 0.1 * torch.randn(t.shape, generator=generator) for n, t in adapter.tensors.items()}
    )


def load_with_peft(base: Path, folder: Path, task: str, bits: int | None) -> torch.nn.Module:
    """What a user does with the folder."""
    import transformers
    from peft import PeftModel

    from fedsim.models.network import keep_trainable, quantization

    causal = task == "causal_lm"
    loader = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForSequenceClassification
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = loader.from_pretrained(
            base, quantization_config=quantization(bits, torch.float32), dtype=torch.float32
        )
        network.config.pad_token_id = 0
        if bits == 4:
            keep_trainable(network)  # else a CPU with AVX512-BF16 rounds to bfloat16 in evaluation
        return PeftModel.from_pretrained(network, folder).eval()


def peft_scores(model: torch.nn.Module, rows: TokenRows, task: str) -> np.ndarray:
    """One row at a time, unpadded, without any of fedsim's code."""
    scores = []
    for row in ROWS:
        ids = rows.row(int(row))
        prompt = ids[: rows.answer_starts[row]] if task == "causal_lm" else ids
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(prompt[None].astype(np.int64))).logits
        if task == "causal_lm":
            logits = logits[:, -1].log_softmax(-1)[:, [word[0] for word in rows.label_ids]]
        else:
            logits = logits.log_softmax(-1)
        scores.append(logits[0].double().numpy())
    return np.stack(scores)


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("task", ["causal_lm", "sequence_classification"])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_peft_gives_the_same_scores(folders, tmp_path, task, bits, use_rslora) -> None:
    hf = HuggingFace(HuggingFace.Config(id=str(folders[task]), task=task, quant_bits=bits, max_length=64))
    lora = Lora(r=4, lora_alpha=8, target_modules=TARGETS[task], use_rslora=use_rslora)
    rows, model = hf.encode(tiny.corpus()), hf.load(lora, 2)
    adapter = randomised(model.new_adapter(0), 1)
    frozen = () if use_rslora else (randomised(model.new_adapter(5), 2),)
    hf.export(tmp_path, adapter, frozen, lora)
    model.set_frozen(frozen)
    leaves = {name: tensor[None] for name, tensor in adapter.tensors.items()}
    with torch.no_grad(), model.using(Cohort(leaves, torch.tensor([adapter.scaling]))):
        ours, _ = model.label_scores(rows, ROWS)
    theirs = peft_scores(load_with_peft(folders[task], tmp_path, task, bits), rows, task)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5, rtol=1e-5)


def test_initial_values_are_peft_s(folders) -> None:
    """A ~ U(-1/sqrt(d_in), 1/sqrt(d_in)), B = 0, and rsLoRA scales by alpha / sqrt(r)."""
    hf = HuggingFace(HuggingFace.Config(id=str(folders["causal_lm"]), max_length=64))
    model = hf.load(Lora(r=4, lora_alpha=8, target_modules=["v_proj"], use_rslora=True), 2)
    adapter = model.new_adapter(0)
    assert sorted(adapter.tensors) == [f"model.layers.{k}.self_attn.v_proj.{f}" for k in (0, 1) for f in "AB"]
    a, b = adapter.tensors["model.layers.0.self_attn.v_proj.A"], adapter.tensors["model.layers.0.self_attn.v_proj.B"]
    assert (tuple(a.shape), tuple(b.shape)) == ((4, 64), (32, 4))
    assert 0.9 / 8 < float(a.abs().max()) <= 1 / 8
    assert float(b.abs().max()) == 0
    assert adapter.scaling == pytest.approx(8 / 2)
    same, other = model.new_adapter(0), model.new_adapter(1)
    assert all(torch.equal(same.tensors[n], adapter.tensors[n]) for n in adapter.tensors)
    assert not torch.equal(other.tensors["model.layers.0.self_attn.v_proj.A"], a)
