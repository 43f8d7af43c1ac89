"""Networks of transformers with fused pieces in them give what they gave before, and their gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from fedsim.models import fused
from fedsim.models.shortcuts import ATTENTION, MODEL_TYPES, register, shorten

SMALL = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
SMALL |= {"initializer_range": 0.3, "pad_token_id": 0}
NAMED = {
    "distilbert": {"dim": 24, "hidden_dim": 40, "n_layers": 2, "n_heads": 4, "vocab_size": 50, "pad_token_id": 0},
    "gpt2": {"n_embd": 24, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 32, "initializer_range": 0.3},
    "llama": SMALL | {"num_key_value_heads": 2},
    "mistral": SMALL | {"num_key_value_heads": 2, "sliding_window": 3},
    "qwen2": SMALL | {"num_key_value_heads": 2},
}


def network(model_type: str) -> Any:
    """A stock network in evaluation, with random weights."""
    config = transformers.AutoConfig.for_model(model_type, **NAMED.get(model_type, SMALL))
    config._attn_implementation = "eager"
    auto = transformers.AutoModel if "bert" in model_type else transformers.AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return auto.from_config(config).eval()


def batch(left: bool) -> dict[str, torch.Tensor]:
    mask = torch.ones(3, 7, dtype=torch.int64)
    mask[1, 4:], mask[2, 2:] = 0, 0
    mask = mask.flip(1) if left else mask
    ids = torch.randint(1, 50, (3, 7), generator=torch.Generator().manual_seed(1)) * mask
    return {"input_ids": ids, "attention_mask": mask}


def outputs(net: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(what the network gives at the tokens of the batch, the gradient of its embeddings for some function of that)"""
    seen = net(**inputs)[0] * inputs["attention_mask"][..., None]
    along = torch.randn(seen.shape, generator=torch.Generator().manual_seed(2))
    (grad,) = torch.autograd.grad((seen * along).sum(), [net.get_input_embeddings().weight])
    return seen, grad


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_network_with_fused_pieces_is_the_same_function(model_type: str, monkeypatch) -> None:
    net, inputs = network(model_type), batch(left="bert" not in model_type)
    expected, expected_grad = outputs(net, inputs)
    register()
    net.config._attn_implementation = ATTENTION
    shorten(net)
    calls, own = [], fused.attention
    monkeypatch.setattr(fused, "attention", lambda *given: calls.append(1) or own(*given))
    found, grad = outputs(net, inputs)
    assert len(calls) == 2  # layers
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(grad, expected_grad, atol=1e-4 * float(expected_grad.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "gpt2"])
def test_answers_are_written_as_before(model_type: str) -> None:
    net, inputs = network(model_type), batch(left=True)
    arguments = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = net.generate(**inputs, **arguments)
    register()
    net.config._attn_implementation = ATTENTION
    shorten(net)
    assert net.generate(**inputs, **arguments).tolist() == expected.tolist()
