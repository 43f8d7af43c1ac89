"""Make the embedded base model: write the text, train a tokenizer and a small Llama on it, save the folder.

    python -m fedsim.models.embedded.pretrain --out DIR

Everything follows from ``--seed`` and ``--steps``. On one thread the same versions on the same kind of processor give
the same files, byte for byte; ``manifest.json`` records their SHA-256 sums and the versions. The shipped folder was
written with the defaults, in about ten minutes on one core.

Sizes are multiples of 64, the block of bitsandbytes' 4-bit format. Numbers are split into groups of two digits from the
left, so 0 to 99 are single tokens: a tiny model compares magnitudes that it sees in one piece.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedsim.core import seeds
from fedsim.models.base import seeded_torch
from fedsim.models.embedded.text import ANSWERS, WORDS, Writer
from fedsim.models.libraries import quiet_libraries

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
END = "<end>"  # ends a text, and pads
VOCABULARY = 1024
# A regular expression for the pieces inside which the tokenizer may merge characters.
PIECES = r" ?\p{N}{1,2}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"
ARCHITECTURE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "initializer_range": 0.05,
}
PROSE_SHARE = 0.1  # of the tokens that answer nothing, the share that is predicted


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train."""

    seed: int = 7
    steps: int = 2500
    batch_size: int = 32  # documents
    lr: float = 4e-3
    warmup: int = 100  # steps


def train_tokenizer(seed: int, num_documents: int = 4000) -> Any:
    """Byte-level BPE in which every answer word and every number up to 99 is one token."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words = [f" {word}" for word in ANSWERS] + [f"{lead}{number}" for number in range(100) for lead in ("", " ")]
    documents = list(Writer(seed, "tokenizer").documents(num_documents))
    tokenizer.train_from_iterator([*documents, *(words * 50)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def batches(tokenizer: Any, plan: Plan) -> Iterator[tuple[Tensor, Tensor]]:
    """(ids, which of them are predicted), both (batch, longest): every answer, and of other tokens one in ten.

    Most tokens of a description are random values that nothing predicts; leaving them out saves a quarter of the time.
    """
    end = tokenizer.eos_token_id
    is_answer = torch.zeros(VOCABULARY, dtype=torch.bool)
    is_answer[[ids[0] for ids in tokenizer([f" {word}" for word in (*ANSWERS, *WORDS)])["input_ids"]]] = True
    writer, generator = Writer(plan.seed, "pretrain"), seeds.generator(plan.seed, "predicted")
    for _ in range(plan.steps):
        rows = [[*ids, end] for ids in tokenizer(list(writer.documents(plan.batch_size)))["input_ids"]]
        width = max(map(len, rows))
        ids = torch.tensor([row + [end] * (width - len(row)) for row in rows])
        real = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
        counted = is_answer[ids] | (torch.rand(ids.shape, generator=generator) < PROSE_SHARE)
        yield ids, counted & real


def learning_rate(plan: Plan, step: int) -> float:
    """Linear warm-up, then a half cosine to zero."""
    if step < plan.warmup:
        return plan.lr * (step + 1) / plan.warmup
    return plan.lr * 0.5 * (1 + math.cos(math.pi * (step - plan.warmup) / max(1, plan.steps - plan.warmup)))


def optimizers(model: torch.nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers (with AdamW's update size), AdamW for embeddings and norms."""
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    outer = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(inner, lr=plan.lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=plan.lr, weight_decay=0.01, betas=(0.9, 0.98)),
    ]


def train_model(tokenizer: Any, plan: Plan, report_every: int = 100) -> Any:
    """A LlamaForCausalLM in float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    end = tokenizer.eos_token_id
    config = LlamaConfig(**ARCHITECTURE, bos_token_id=None, eos_token_id=end, pad_token_id=end)
    with seeded_torch(seeds.derive(plan.seed, "weights")):
        model = LlamaForCausalLM(config).float().train()
    steppers = optimizers(model, plan)
    for step, (ids, counted) in enumerate(batches(tokenizer, plan)):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        loss = cross_entropy(model.lm_head(hidden[counted[:, 1:]]), ids[:, 1:][counted[:, 1:]])
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = learning_rate(plan, step)
            stepper.step()
        model.zero_grad()
        if step % report_every == 0:
            print(f"step {step} of {plan.steps}: loss {loss.item():.3f}", flush=True)
    return model.eval()


def write_manifest(folder: Path, plan: Plan) -> None:
    """``manifest.json``: what made the files, and their SHA-256 sums."""
    import tokenizers
    import transformers

    manifest = {
        "made_by": "python -m fedsim.models.embedded.pretrain",
        "seed": plan.seed,
        "steps": plan.steps,
        "versions": {m.__name__: m.__version__.split("+")[0] for m in (torch, transformers, tokenizers)},
        "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def pretrain(folder: Path, plan: Plan) -> None:
    """Write the whole model folder."""
    quiet_libraries()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(plan.seed)
    tokenizer.save_pretrained(str(folder))
    model = train_model(tokenizer, plan)
    model.save_pretrained(str(folder))
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_manifest(folder, plan)


def main() -> None:
    parser = argparse.ArgumentParser(description="Pretrain the embedded base model.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--steps", type=int, default=Plan.steps)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the order of float additions depends on the number of threads
    pretrain(arguments.out, Plan(seed=arguments.seed, steps=arguments.steps))


if __name__ == "__main__":
    main()
