"""Per-row gradients of the cohort layers against one row at a time, and against Opacus on PEFT's own model."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.core.adapter import AdapterState, flatten
from fedsim.core.rows import TokenRows
from fedsim.core.sections import Lora
from fedsim.models.base import CohortModel
from fedsim.models.hf import HuggingFace
from fedsim.train.cohort import CohortState
from fedsim.train.gradients import Gradients, Tally
from fedsim.train.sampling import Drawn
from tests import tiny

TARGETS = {"causal_lm": ["q_proj", "v_proj"], "sequence_classification": ["query", "value"]}
ROWS = np.array([1, 4, 5, 9, 12, 20])


def setup(folder: Path, task: str, bits: int | None) -> tuple[CohortModel, TokenRows, AdapterState]:
    hf = HuggingFace(HuggingFace.Config(id=str(folder), task=task, quant_bits=bits, max_length=64))
    model = hf.load(Lora(r=4, target_modules=TARGETS[task]), 2)
    start = model.new_adapter(0)
    generator = torch.Generator().manual_seed(1)
    values = {n: 0.1 * torch.randn(t.shape, generator=generator) for n, t in start.tensors.items()}
    return model, hf.encode(tiny.corpus()), start.with_tensors(values)


def row_gradients(model: CohortModel, rows: TokenRows, adapter: AdapterState, indices: np.ndarray) -> torch.Tensor:
    """(rows, P) from one pass, one leaf per row."""
    state = CohortState([adapter], list(adapter.tensors), model.device)
    leaves = state.layout.split(state.params.repeat(len(indices), 1))
    leaves = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}
    gradients = Gradients(model, rows, state, [])
    losses = gradients._losses(leaves, indices, torch.zeros(len(indices), dtype=torch.long), None)
    grads = torch.autograd.grad(losses.sum(), list(leaves.values()))
    return torch.cat([grad.flatten(1) for grad in grads], 1)


def worst(ours: torch.Tensor, oracle: torch.Tensor) -> float:
    return float(((ours - oracle).norm(dim=1) / oracle.norm(dim=1)).max())


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("task", ["causal_lm", "sequence_classification"])
def test_equal_one_row_at_a_time(tiny_folders, task, bits) -> None:
    model, rows, adapter = setup(tiny_folders[task], task, bits)
    together = row_gradients(model, rows, adapter, ROWS)
    alone = torch.cat([row_gradients(model, rows, adapter, ROWS[i : i + 1]) for i in range(len(ROWS))])
    assert worst(together, alone) < 1e-5


def peft_model(folder: Path, task: str, bits: int | None, adapter: AdapterState) -> torch.nn.Module:
    """PEFT's own model with the same values, built without fedsim's layers."""
    import transformers
    from peft import get_peft_model

    from fedsim.models.network import keep_trainable, peft_config, quantization

    loader = (
        transformers.AutoModelForCausalLM if task == "causal_lm" else transformers.AutoModelForSequenceClassification
    )
    network = loader.from_pretrained(folder, quantization_config=quantization(bits, torch.float32), dtype=torch.float32)
    network.config.pad_token_id = 0
    if bits == 4:
        keep_trainable(network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = get_peft_model(network, peft_config(Lora(r=4, target_modules=TARGETS[task]), task))
    model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(adapter.tensors[fedsim_name(name)])
    return model


def fedsim_name(name: str) -> str:
    name = name.removeprefix("base_model.model.")
    if "modules_to_save" in name:
        return "head." + name.replace(".modules_to_save.default", "")
    return name.replace(".lora_A.default.weight", ".A").replace(".lora_B.default.weight", ".B")


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("task", ["causal_lm", "sequence_classification"])
def test_equal_opacus(tiny_folders, task, bits) -> None:
    from opacus import GradSampleModule

    model, rows, adapter = setup(tiny_folders[task], task, bits)
    ours = row_gradients(model, rows, adapter, ROWS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = GradSampleModule(peft_model(tiny_folders[task], task, bits, adapter), loss_reduction="sum")
        for module in oracle.modules():  # Opacus looks at layers in training mode only; the base's dropout stays off
            module.training = isinstance(module, torch.nn.Linear) and module.weight.requires_grad
        batch = model.batch(rows, ROWS)
        if task == "causal_lm":
            position = (batch.attention_mask.cumsum(1) - 1).clamp(min=0)
            logits = oracle(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=position
            ).logits
            losses = torch.nn.functional.cross_entropy(logits[:, -2], batch.input_ids[:, -1], reduction="none")
        else:
            logits = oracle(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
            losses = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
        losses.sum().backward()
    samples = {
        fedsim_name(name.removeprefix("_module.")): parameter.grad_sample
        for name, parameter in oracle.named_parameters()
        if parameter.requires_grad
    }
    expected = torch.stack([flatten({n: s[i] for n, s in samples.items()}) for i in range(len(ROWS))])
    assert worst(ours, expected) < 1e-5


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_a_row_does_not_depend_on_its_batch(tiny_folders, bits) -> None:
    """Swapping every other row of the batch leaves a row's gradient where it was: clipping bounds its influence."""
    model, rows, adapter = setup(tiny_folders["causal_lm"], "causal_lm", bits)
    one = row_gradients(model, rows, adapter, np.array([1, 4, 5]))[0]
    other = row_gradients(model, rows, adapter, np.array([1, 30, 2, 17]))[0]
    assert float((one - other).norm() / one.norm()) < 1e-5


def test_the_sum_per_bank_equals_the_sum_of_row_gradients(tiny_folders) -> None:
    model, rows, adapter = setup(tiny_folders["causal_lm"], "causal_lm", None)
    state = CohortState([adapter, adapter], list(adapter.tensors), model.device)
    sums = Gradients(model, rows, state, []).sums(
        [Drawn.of_rows(ROWS[:2]), Drawn.of_rows(ROWS[2:])], 4, [Tally(), Tally()]
    )
    single = row_gradients(model, rows, adapter, ROWS)
    assert worst(sums, torch.stack([single[:2].sum(0), single[2:].sum(0)])) < 1e-5
