"""Where the fused pieces go into a network of transformers: chosen by what a module is, so a model needs no switch.

attention      of every architecture that looks it up by name in transformers' table
rotary         embedding within it, for Llama's attention layers
norms          Llama's, under the names that its relatives give the same function
logits         of a causal model, which its losses can do without (``fused.losses_of_hidden``)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.models import fused

ATTENTION = "fedsim"  # its name in transformers' table
MODEL_TYPES = ("bert", "distilbert", "gpt2", "llama", "mistral", "qwen2", "roberta")  # whose attention is the plain one
ROTARY = ("LlamaAttention",)
NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm")


def register() -> None:
    """Put our attention into transformers' table."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, eager_mask)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' signature; what else it passes (dropout, which is off) is not used by ``MODEL_TYPES``."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return fused.attention(query, key, value, attention_mask, scale), None


def shorten(network: Any) -> None:
    """Give modules that have a fused form that form, in place."""
    last = network.get_output_embeddings()
    if type(last) is nn.Linear:
        last.forward = MethodType(_contiguous, last)  # type: ignore[method-assign]
    for module in network.modules():
        kind = type(module).__name__
        if kind in NORMS:
            module.forward = MethodType(_norm, module)
        elif kind in ROTARY and module.config._attn_implementation == ATTENTION:
            module.forward = MethodType(_rotary_attention, module)


def plain_logits(network: Any) -> nn.Linear | None:
    """The frozen layer whose output is a causal model's logits; None where it is not such a layer, or not the last."""
    last = network.get_output_embeddings()
    return last if type(last) is nn.Linear and network.config.model_type in MODEL_TYPES else None


@contextmanager
def without_logits(last: nn.Linear) -> Iterator[None]:
    """Forward passes made inside give what their last layer is given."""
    forward = last.forward
    last.forward = _identity  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        last.forward = forward  # type: ignore[method-assign]


def _identity(x: Tensor) -> Tensor:
    return x


def _contiguous(self: nn.Linear, x: Tensor) -> Tensor:
    """Of some positions of every row: as one product, not one per row."""
    return nn.Linear.forward(self, x.contiguous())


def _norm(self: Any, hidden_states: Tensor) -> Tensor:
    if hidden_states.dtype != torch.float32:
        return type(self).forward(self, hidden_states)  # type: ignore[no-any-return]
    return fused.rms_norm(hidden_states, self.weight, self.variance_epsilon)


def _rotary_attention(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    if past_key_values is not None:  # writing an answer: keys are kept as transformers keeps them
        arguments = {"attention_mask": attention_mask, "past_key_values": past_key_values, **others}
        return type(self).forward(self, hidden_states, position_embeddings, **arguments)  # type: ignore[no-any-return]
    shape = (*hidden_states.shape[:-1], -1, self.head_dim)
    q, k, v = (layer(hidden_states).view(shape).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj))
    cos, sin = (part.transpose(1, 2)[:, None].contiguous() for part in position_embeddings)  # (n, 1, d, t)
    out = fused.attention(q, k, v, attention_mask, self.scaling, cos, sin)
    return self.o_proj(out.flatten(2)), None
