"""A Llama of any shape with random weights: for benchmarks, which download nothing.

``save_random_llama`` writes it as a model folder; ``random_llama`` makes it in the memory of a device, as quantised as
``model.quant_bits`` has it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from fedsim.core.sections import Lora
from fedsim.models.base import seeded_torch
from fedsim.models.libraries import quiet_libraries
from fedsim.models.lora import replace_module
from fedsim.models.network import HEADS, Adapted, keep_trainable
from fedsim.models.tasks import CausalLM

PAD, UNKNOWN = "<pad>", "<unk>"
STD = 0.02  # of a random weight, as transformers draws it


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """Sizes in the words of ``transformers.LlamaConfig``; as many key-value heads as heads where not told."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    num_key_value_heads: int | None = None

    def config(self, max_tokens: int = 256) -> Any:
        """Token 0 pads; there is no end token."""
        from transformers import LlamaConfig

        ends = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
        return LlamaConfig(**asdict(self), max_position_embeddings=max_tokens, **ends)


def save_random_llama(folder: Path, shape: LlamaShape, seed: int = 0) -> None:
    """Weights drawn from ``seed``, and a tokenizer whose words are ``t2``, ``t3``, ... (0 pads, 1 is unknown)."""
    from transformers import LlamaForCausalLM

    quiet_libraries()
    with seeded_torch(seed):
        LlamaForCausalLM(shape.config()).save_pretrained(folder)
    _tokenizer(shape.vocab_size).save_pretrained(folder)


def _tokenizer(vocab_size: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {PAD: 0, UNKNOWN: 1, **{f"t{number}": number for number in range(2, vocab_size)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a network is made and how its weights lie there: ``bits`` as ``model.quant_bits``."""

    device: torch.device
    dtype: torch.dtype
    bits: Literal[4, 8] | None = None


def random_llama(shape: LlamaShape, place: Place, lora: Lora, max_tokens: int) -> CausalLM:
    """A cohort model of this shape, its weights drawn on the device.

    Layer by layer: beside the network as it is in the end there is one layer's unquantised weight at a time.
    """
    from transformers import LlamaForCausalLM

    quiet_libraries()
    config = shape.config(max_tokens)
    with torch.device("meta"):
        network = LlamaForCausalLM(config)
    draw = torch.Generator(place.device).manual_seed(0)
    for name, module in list(network.named_modules()):
        own = list(module.parameters(recurse=False))
        if isinstance(module, nn.Linear):
            bits = None if name in HEADS else place.bits
            replace_module(network, name, _linear(_random(module.weight, place, draw), bits))
        elif own:
            is_norm = own[0].ndim == 1  # else the token vectors
            weight = torch.ones(own[0].shape) if is_norm else _random(own[0], place, draw)
            module.weight = nn.Parameter(weight.to(place.device, place.dtype), requires_grad=False)
    rotary = network.model.rotary_emb  # its tables are buffers that a state dict does not hold
    network.model.rotary_emb = type(rotary)(config).to(place.device)
    network.is_loaded_in_4bit, network.is_loaded_in_8bit = place.bits == 4, place.bits == 8  # what PEFT asks for
    if place.bits == 4:
        keep_trainable(network)
    return CausalLM(Adapted(network.eval(), lora, "causal_lm", "of random weights"), _tokenizer(2))


def _random(like: torch.Tensor, place: Place, draw: torch.Generator) -> torch.Tensor:
    return torch.empty(like.shape, dtype=place.dtype, device=place.device).normal_(0, STD, generator=draw)


def _linear(weight: torch.Tensor, bits: Literal[4, 8] | None) -> nn.Linear:
    """A frozen layer without bias; quantised with the settings of ``network.quantization``."""
    from bitsandbytes import functional
    from bitsandbytes import nn as bnb

    d_out, d_in = weight.shape
    layer: nn.Linear
    with torch.device("meta"):
        if bits == 4:
            layer = bnb.Linear4bit(
                d_in, d_out, bias=False, compute_dtype=weight.dtype, compress_statistics=False, quant_type="nf4"
            )
        elif bits == 8:
            layer = bnb.Linear8bitLt(d_in, d_out, bias=False, has_fp16_weights=False, threshold=0.0)
        else:
            layer = nn.Linear(d_in, d_out, bias=False)
    if bits == 4:
        packed = bnb.Params4bit(weight, compress_statistics=False, quant_type="nf4", module=layer)
        layer.weight = packed.to(weight.device)
    elif bits == 8:  # Int8Params quantises what comes from the CPU only
        values, scales, _ = functional.int8_vectorwise_quant(weight.half())
        layer.weight = bnb.Int8Params(values, requires_grad=False, has_fp16_weights=False, CB=values, SCB=scales)
    else:
        layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer
