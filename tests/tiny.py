"""Small random models in a folder, for tests that need a real transformers network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fedsim.core.rows import BankRows, Corpus

WORDS = [
    "loan",
    "amount",
    "term",
    "rate",
    "bank",
    "repaid",
    "default",
    "low",
    "high",
    "the",
    "is",
    "of",
    "in",
    "good",
    "bad",
]


def save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {word: number for number, word in enumerate(["<pad>", "<unk>", "</s>", *WORDS, *map(str, range(100))])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", model_max_length=64
    )
    fast.save_pretrained(folder)


def save_llama(folder: Path) -> Path:
    """A two-layer Llama of width 64: wide enough for 4-bit blocks, non-square k and v."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        pad_token_id=0,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_bert(folder: Path) -> Path:
    """A two-layer BERT encoder of width 64, without a head."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.2,
        pad_token_id=0,
    )
    BertModel(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_gpt2(folder: Path) -> Path:
    """A two-layer GPT-2 of width 64, whose linear layers are transposed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=128, n_embd=64, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2, eos_token_id=2
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def corpus(num_rows: int = 40, seed: int = 0) -> Corpus:
    """Loans of unequal length whose label depends on the rate; the last fifth are test rows."""
    rng = np.random.default_rng(seed)
    prompts, labels = [], []
    for _ in range(num_rows):
        rate, amount = rng.integers(0, 100), rng.integers(0, 100)
        filler = " of the loan" * int(rng.integers(0, 4))
        prompts.append(f"the amount is {amount} the rate is {rate}{filler} bank is")
        labels.append(int(rate + rng.normal(0, 10) > 50))
    label_array = np.array(labels, dtype=np.int64)
    words = ("repaid", "default")
    test = np.arange(num_rows) >= num_rows * 4 // 5
    answers = tuple(words[label] for label in labels)
    return Corpus(tuple(prompts), answers, label_array, words, test, {"label": np.array(answers)})


def three_banks(rows: Corpus) -> tuple[BankRows, ...]:
    """Banks of unequal size over the corpus."""
    train, test = np.flatnonzero(~rows.test), np.flatnonzero(rows.test)
    cuts, test_cuts = (len(train) // 2, len(train) * 5 // 6), (len(test) // 3, len(test) * 2 // 3)
    shares = zip(np.split(train, cuts), np.split(test, test_cuts), strict=True)
    return tuple(BankRows(f"bank-{k:02d}", a, b) for k, (a, b) in enumerate(shares))
