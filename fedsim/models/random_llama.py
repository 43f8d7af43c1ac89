"""A Llama of any shape with random weights, written as a model folder: for benchmarks, which download nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedsim.models.base import seeded_torch

PAD, UNKNOWN = "<pad>", "<unk>"


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """Sizes in the words of ``transformers.LlamaConfig``."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int


def save_random_llama(folder: Path, shape: LlamaShape, seed: int = 0) -> None:
    """Weights drawn from ``seed``, and a tokenizer whose words are ``t2``, ``t3``, ... (0 pads, 1 is unknown)."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from fedsim.models.network import quiet_libraries

    quiet_libraries()
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_attention_heads,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    with seeded_torch(seed):
        LlamaForCausalLM(config).save_pretrained(folder)
    vocabulary = {PAD: 0, UNKNOWN: 1, **{f"t{number}": number for number in range(2, shape.vocab_size)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN).save_pretrained(folder)
