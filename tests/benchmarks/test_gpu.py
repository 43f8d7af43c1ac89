"""The GPU benchmark in its dry run: the same adapter as the loop's, and figures that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt

from fedsim.models.network import quantization
from fedsim.models.random_llama import LlamaShape, Place, random_llama
from tests.benchmarks.gpu import DRY, LORA, TINY, allowed_bytes, flops_per_token, lines, peak_tflops

SMALL = LlamaShape(32, 64, 1, 4, 64, num_key_value_heads=2)


@pytest.mark.filterwarnings("ignore")  # Opacus' of layers without trained inputs
@pytest.mark.parametrize("bits", [4, 8, None])
def test_a_dry_run_trains_the_adapter_of_the_loop(bits) -> None:
    one, two, loop = lines(replace(DRY, cohorts=(1, 2), tokens=6, rows=2, steps=1), bits)
    assert (one["engine"], two["banks"], loop["engine"]) == ("fedsim", 2, "PEFT + Opacus")
    assert max(one["rel_err"], two["rel_err"]) < 1e-5
    assert one["ratio"] > 0
    assert one["mfu"] is None
    assert loop["peak_memory_mb"] > 0


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_are_quantised_as_a_scenario_has_them(bits) -> None:
    """The settings of ``model.quant_bits``, and no matrix but the output layer left as it was."""
    wanted = quantization(bits, torch.float32)
    model = random_llama(SMALL, Place(torch.device("cpu"), torch.float32, bits), LORA, 8)
    linear = {n: m for n, m in model.network.named_modules() if isinstance(m, torch.nn.Linear)}
    kind = Linear4bit if bits == 4 else Linear8bitLt
    assert [name for name, layer in linear.items() if not isinstance(layer, kind)] == ["lm_head"]
    layer = linear["model.layers.0.mlp.up_proj"]
    if bits == 4:
        state = layer.weight.quant_state
        assert (state.quant_type, state.nested) == (wanted.bnb_4bit_quant_type, wanted.bnb_4bit_use_double_quant)
        assert layer.weight.numel() == SMALL.hidden_size * SMALL.intermediate_size // 2
    else:
        assert layer.state.threshold == wanted.llm_int8_threshold
        assert layer.weight.dtype == torch.int8


def test_a_product_of_a_quantised_layer_is_that_of_its_drawn_weight() -> None:
    """The generator draws the same weights whatever the bits: int8 is near them, nf4 less so."""
    places = [Place(torch.device("cpu"), torch.float32, bits) for bits in (None, 8, 4)]
    up = [random_llama(SMALL, at, LORA, 8).network.model.layers[0].mlp.up_proj for at in places]
    x = torch.ones(1, SMALL.hidden_size)
    exact, int8, nf4 = (layer(x) for layer in up)
    assert torch.allclose(int8, exact, atol=0.02 * float(exact.abs().max()))
    assert torch.allclose(nf4, exact, atol=0.4 * float(exact.abs().max()))


def test_flops_are_four_per_frozen_weight_and_six_per_trained_one() -> None:
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    assert flops_per_token(SMALL, trained=10) == 4 * (layer + 32 * 64) + 60
    assert flops_per_token(TINY, 0) == 4 * (2 * (2 * 64 * 64 + 2 * 64 * 16 + 3 * 64 * 192) + 64 * 512)


def test_allowed_memory_grows_by_adapters_and_by_the_rows_of_a_pass() -> None:
    """Base 1000, a bank's state 10, activations of 4 rows 90: 16 banks with 8 rows in a pass."""
    assert allowed_bytes(1000, 1100, 10, 16, (4, 8)) == round(1.1 * (1000 + 160 + 180))


def test_a_card_is_known_by_its_name() -> None:
    assert peak_tflops("NVIDIA H200") == 989.0
    assert peak_tflops("NVIDIA A100-SXM4-80GB") == 312.0
    assert peak_tflops("Radeon") is None
