"""How fast and how large a cohort is on one GPU, beside PEFT + Opacus with one bank after the other on the same base.

    python -m tests.benchmarks.gpu             a Llama of 8B's shape; no download, no Ray
    python -m tests.benchmarks.gpu --cpu       of 1B's shape on the CPU in float32, for its memory
    python -m tests.benchmarks.gpu --dry-run   the same on the CPU with a tiny shape, to see that it works

The base has random weights drawn on the device. ``fedsim.train.Trainer`` trains K banks on it, as it does in an actor;
then PEFT's own layers take the place of fedsim's, and the same banks are trained one by one. Rows, noise, clipping and
steps are the same. One JSON line per setting:

    tokens_per_s           of training, median over the repeats; each ends when the adapters are on the CPU
    mfu                    tokens_per_s x flops_per_token / peak_tflops; null where the card's peak is not known here
    flops_per_token        4 per frozen weight of a matrix (forward, and back to its input: it has no gradient of its
                           own) and 6 per trained one; attention's own products are left out
    peak_memory_mb         allocated on the GPU, or resident in the whole process; null where that is not told
    allowed_memory_mb      1.1 x what one bank needs, with the K banks' adapters and the pass's rows in its place
    ratio                  of tokens_per_s to those of the loop
    rel_err                between the first bank's adapter and the loop's, over what training has moved
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.bench.bare import Loop
from fedsim.bench.compare import relative_error
from fedsim.core import seeds
from fedsim.core.adapter import AdapterState, flatten
from fedsim.core.messages import TrainJob
from fedsim.core.rows import BankRows, TokenRows
from fedsim.core.sections import Lora, Train
from fedsim.models.lora import replace_module
from fedsim.models.random_llama import LlamaShape, Place, random_llama
from fedsim.models.tasks import CausalLM
from fedsim.privacy import MECHANISMS, BankPlan
from fedsim.strategies.base import LocalRule
from fedsim.train.heap import forget_peak, peak
from fedsim.train.trainer import LocalTraining, Trainer

LLAMA_8B = LlamaShape(4096, 14336, 32, 32, 128256, num_key_value_heads=8)
LLAMA_1B = LlamaShape(2048, 8192, 16, 32, 128256, num_key_value_heads=8)
TINY = LlamaShape(64, 192, 2, 8, 512, num_key_value_heads=2)
LORA = Lora(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
PEAK_TFLOPS = {  # bfloat16 without sparsity, from the makers' data sheets; by a part of the card's name, first match
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 80GB HBM3": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "RTX 4090": 165.0,
}
CLIP, NOISE = 1.0, 0.5
STATE_COPIES = 3  # of a bank's trained values on the device while it trains: values, gradient, the step's product
SLACK = 1.1
LOOPED = 2  # banks that the loop plays: its rate does not depend on how many

Bits = Literal[4, 8] | None


@dataclass(frozen=True)
class Setting:
    """What is measured. ``tokens`` per row, ``rows`` per bank and step, at most ``max_rows`` rows in one pass."""

    shape: LlamaShape
    device: torch.device
    dtype: torch.dtype
    bases: tuple[Bits, ...]
    cohorts: tuple[int, ...]
    tokens: int
    rows: int
    max_rows: int
    steps: int
    repeats: int


def gpu(tokens: int, rows: int, max_rows: int) -> Setting:
    return Setting(
        LLAMA_8B, torch.device("cuda"), torch.bfloat16, (4, 8, None), (1, 4, 8, 16), tokens, rows, max_rows, 2, 3
    )


CPU = Setting(LLAMA_1B, torch.device("cpu"), torch.float32, (None,), (1, 4, 16), 64, 2, 8, steps=1, repeats=1)
DRY = Setting(TINY, torch.device("cpu"), torch.float32, (4, 8, None), (1, 4), 16, 4, 8, steps=2, repeats=1)


@dataclass(frozen=True)
class Measured:
    """Work that was done several times. ``peak`` in bytes; None where the system does not tell."""

    seconds: float
    peak: int | None


class Bench:
    """One base, its rows, and as many banks as the largest cohort has."""

    def __init__(self, setting: Setting, bits: Bits) -> None:
        self.setting = setting
        place = Place(setting.device, setting.dtype, bits)
        self.model: CausalLM = random_llama(setting.shape, place, LORA, setting.tokens)
        self.base_bytes = held(setting.device)
        names = [f"bank-{number:02d}" for number in range(max(setting.cohorts))]
        per_bank = setting.rows * setting.steps
        self.rows = random_rows(len(names) * per_bank, setting.tokens, setting.shape.vocab_size)
        places = np.split(np.arange(len(self.rows)), len(names))
        banks = {name: BankRows(name, own, own[:0]) for name, own in zip(names, places, strict=True)}
        config = MECHANISMS.config("dp_sgd").model_validate(
            {"noise_multiplier": NOISE, "max_grad_norm": CLIP, "dp_delta": 1e-5}
        )
        plans = [BankPlan(name, per_bank, setting.rows, setting.steps, 1, sampling="fixed") for name in names]
        mechanisms = {plan.name: MECHANISMS["dp_sgd"](config, plan) for plan in plans}
        train = Train(
            local_steps=setting.steps,
            batch_size=setting.rows,
            sampling="fixed",
            optimizer="sgd",
            lr=0.1,
            max_rows=setting.max_rows,
        )
        self.local = LocalTraining(LocalRule(), train, 1, banks, mechanisms)
        self.trainer = Trainer(self.model, self.rows, self.local)
        self.start = self.trainer.new_adapter(0)
        self.jobs = [TrainJob(0, name, self.start, seed=seeds.derive(0, "job", 0, name)) for name in names]

    @property
    def num_trained(self) -> int:
        return sum(tensor.numel() for tensor in self.start.tensors.values())

    def cohort(self, banks: int) -> tuple[Measured, Tensor]:
        """(what training these banks together takes, the first one's adapter)."""
        found: list[AdapterState] = []

        def work() -> None:
            (first, *_) = self.trainer.train(self.jobs[:banks], [{}] * banks)
            found[:] = [self.start.with_tensors(first.outcome.delta)]

        return measured(work, self.setting), flatten(self.start.tensors) + flatten(found[0].tensors)

    def looped(self, banks: int) -> tuple[Measured, Tensor]:
        """The same by PEFT and Opacus, one bank after the other. fedsim's layers are gone after this."""
        network: nn.Module = self.model.network
        for name, layer in self.model.adapted.layers.items():
            replace_module(network, name, layer)
        loop = Loop(network, self.rows, self.local.banks, self.local.mechanisms, self.local.train)
        start = flatten(self.start.tensors).to(self.setting.device)
        took = measured(lambda: loop.share(start, self.jobs[:banks]).cpu(), self.setting)
        return took, loop.share(start, self.jobs[:1]).float().cpu()


def random_rows(count: int, tokens: int, vocab_size: int) -> TokenRows:
    """Texts of which the first token is the prompt."""
    ids = seeds.rng(0, "benchmark rows").integers(2, vocab_size, count * tokens).astype(np.int32)
    starts, labels = np.ones(count, dtype=np.int32), np.full(count, -1, dtype=np.int64)
    return TokenRows(ids, np.arange(count + 1) * tokens, starts, labels)


def measured(work: Callable[[], object], setting: Setting) -> Measured:
    """Once to warm up, then the median of the repeats; what the device does is waited for."""
    on_gpu, before = setting.device.type == "cuda", held(setting.device)
    times = []
    for _ in range(1 + setting.repeats):
        start = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return Measured(statistics.median(times[1:]), None if before is None else peak(setting.device))


def held(device: torch.device) -> int | None:
    """Bytes held now, of which the most is measured from here on."""
    gc.collect()
    return forget_peak(device)


def flops_per_token(shape: LlamaShape, trained: int) -> int:
    """As the module says; the output layer counts, the table of token vectors does not."""
    hidden, heads = shape.hidden_size, shape.num_attention_heads
    key_value = hidden // heads * (shape.num_key_value_heads or heads)
    layer = 2 * hidden * hidden + 2 * hidden * key_value + 3 * hidden * shape.intermediate_size
    return 4 * (shape.num_hidden_layers * layer + hidden * shape.vocab_size) + 6 * trained


def peak_tflops(card: str) -> float | None:
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in card), None)


def allowed_bytes(base: int, one_bank: int, adapter: int, banks: int, rows: tuple[int, int]) -> int:
    """What ``banks`` banks may take if nothing but adapters and activations grows with them, and a tenth more.

    ``one_bank``: the peak with one; ``adapter``: of a bank in training; ``rows``: in one pass, with one and with all.
    """
    activations = (one_bank - base - adapter) * rows[1] / rows[0]
    return round(SLACK * (base + banks * adapter + activations))


def lines(setting: Setting, bits: Bits) -> Iterator[dict[str, Any]]:
    """Of one base: a line per cohort, which is measured first, and one of the loop."""
    bench = Bench(setting, bits)
    card = torch.cuda.get_device_name() if setting.device.type == "cuda" else "CPU"
    about = {"base": f"{bits} bits" if bits else str(setting.dtype).removeprefix("torch."), "card": card}
    found: list[tuple[int, Measured | None, Tensor | None]] = []
    for banks in setting.cohorts:
        try:
            found.append((banks, *bench.cohort(banks)))
        except torch.OutOfMemoryError:
            found.append((banks, None, None))
    num_looped = min(LOOPED, max(setting.cohorts))
    loop, reference = bench.looped(num_looped)
    per_bank = setting.rows * setting.steps * setting.tokens
    loop_rate = num_looped * per_bank / loop.seconds
    start, adapter = flatten(bench.start.tensors), 4 * STATE_COPIES * bench.num_trained
    for banks, took, end in found:
        line: dict[str, Any] = {"engine": "fedsim", "banks": banks, **about}
        if took is None or end is None:
            yield {**line, "error": "out of memory"}
            continue
        line |= figures(setting, bench, banks * per_bank / took.seconds, took.peak)
        line |= {"allowed_memory_mb": None, "ratio": round(banks * per_bank / took.seconds / loop_rate, 2)}
        first = found[0][1]
        if took.peak and first and first.peak and bench.base_bytes:
            rows = (min(setting.rows, setting.max_rows), min(banks * setting.rows, setting.max_rows))
            allowed = allowed_bytes(bench.base_bytes, first.peak, adapter, banks, rows)
            line |= {"allowed_memory_mb": round(allowed / 1e6), "within_memory": took.peak <= allowed}
        yield {**line, "rel_err": relative_error(end, start, reference)}
    yield {"engine": "PEFT + Opacus", "banks": 1, **about, **figures(setting, bench, loop_rate, loop.peak)}


def figures(setting: Setting, bench: Bench, rate: float, peak_bytes: int | None) -> dict[str, Any]:
    flops, fastest = flops_per_token(setting.shape, bench.num_trained), None
    if setting.device.type == "cuda":
        fastest = peak_tflops(torch.cuda.get_device_name())
    return {
        "tokens_per_s": round(rate),
        "mfu": None if fastest is None else round(rate * flops / fastest / 1e12, 3),
        "flops_per_token": flops,
        "peak_tflops": fastest,
        "peak_memory_mb": None if peak_bytes is None else round(peak_bytes / 1e6),
        "tokens": setting.tokens,
        "rows": setting.rows,
        "max_rows": setting.max_rows,
        "torch": torch.__version__,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="the shape of a Llama of 1B on the CPU, float32")
    parser.add_argument("--dry-run", action="store_true", help="a tiny shape on the CPU, float32")
    parser.add_argument("--tokens", type=int, default=128, help="of a row")
    parser.add_argument("--rows", type=int, default=8, help="of a bank in a step")
    parser.add_argument("--max-rows", type=int, default=32, help="in one pass: activations need memory by these")
    told = parser.parse_args(arguments)
    if not (told.cpu or told.dry_run or torch.cuda.is_available()):
        parser.error("no CUDA device here; --cpu and --dry-run run smaller shapes on the CPU")
    small = DRY if told.dry_run else CPU
    setting = small if told.cpu or told.dry_run else gpu(told.tokens, told.rows, told.max_rows)
    warnings.filterwarnings("ignore", "Full backward hook")  # Opacus' of token vectors, which are not trained
    if not told.cpu:
        torch.set_num_threads(1)  # the device computes; of a dry run, small products
    for bits in setting.bases:
        for line in lines(setting, bits):
            print(json.dumps(line), flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
