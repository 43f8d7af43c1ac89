"""The same training as a bare loop: PEFT's own layers, Opacus for row gradients, one bank after the other.

It shares with the engine what a comparison must hold equal (initial adapter, drawn rows, drawn noise) and computes
losses, gradients, clipping, steps and the mean by itself. Processes share the banks of a round; each has one thread.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn

from fedsim.build.load import load_scenario
from fedsim.build.prepare import make_job, prepare
from fedsim.core import seeds
from fedsim.core.adapter import AdapterState
from fedsim.core.messages import TrainJob
from fedsim.core.rows import TokenRows
from fedsim.core.scenario import Scenario
from fedsim.engine.driver import sample
from fedsim.models.base import seeded_torch
from fedsim.train.sampling import fixed_rows


class _Loop:
    """One process: the model, and the banks that it plays in turn."""

    def __init__(self, scenario: Scenario) -> None:
        from opacus import GradSampleModule
        from peft import LoraConfig, get_peft_model
        from peft.tuners.lora import LoraLayer
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self.scenario, material = scenario, prepare(scenario)
        if not isinstance(material.rows, TokenRows):
            raise TypeError("the bare loop trains on texts")
        self.rows, self.mechanisms = material.rows, make_job(scenario, material, "").plan.mechanisms
        self.banks = {bank.name: bank for bank in material.banks}
        self.is_private = scenario.privacy.kind != "none"
        lora = scenario.lora
        base = AutoModelForCausalLM.from_pretrained(scenario.model.knobs["id"])
        config = LoraConfig(
            r=lora.r, lora_alpha=lora.lora_alpha, target_modules=list(lora.target_modules or ()), task_type="CAUSAL_LM"
        )
        model: nn.Module = get_peft_model(base, config)
        self.params = sorted(((ours(n), p) for n, p in model.named_parameters() if p.requires_grad), key=lambda x: x[0])
        self.sizes = [p.numel() for _, p in self.params]
        with seeded_torch(scenario.seed):  # the run's own initial values
            for layer in model.modules():
                if isinstance(layer, LoraLayer):
                    layer.reset_lora_parameters("default", lora.init_lora_weights)
        self.model = GradSampleModule(model, loss_reduction="mean") if self.is_private else model

    def flat(self) -> Tensor:
        """(P,) the adapter as it stands, names in sorted order."""
        return torch.cat([p.detach().reshape(-1) for _, p in self.params])

    def share(self, flat: Tensor, round_: int, banks: Sequence[str]) -> Tensor:
        """Sum of the banks' trained adapters, float64."""
        total = torch.zeros(flat.numel(), dtype=torch.float64)
        for bank in banks:
            self._load(flat)
            seed = seeds.derive(self.scenario.seed, "job", round_, bank)
            job = TrainJob(round_, bank, AdapterState({}, 0, 1.0), seed=seed)
            for step in range(self.scenario.train.local_steps or 0):
                self._step(job, step)
            total += self.flat().double()
        return total

    def _load(self, flat: Tensor) -> None:
        with torch.no_grad():
            for (_, p), part in zip(self.params, torch.split(flat, self.sizes), strict=True):
                p.copy_(part.view_as(p))

    def _step(self, job: TrainJob, step: int) -> None:
        mechanism = self.mechanisms[job.bank]
        size = round(mechanism.plan.batch_size)
        drawn = fixed_rows(self.banks[job.bank].train, size, mechanism.source(job, "batch", step)).rows
        ids = torch.stack([torch.from_numpy(self.rows.row(index)).long() for index in drawn])
        logits = self.model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
        grads = self._private(loss, job, step, size) if self.is_private else self._plain(loss)
        with torch.no_grad():
            for (_, p), grad in zip(self.params, grads, strict=True):
                p.sub_(self.scenario.train.lr * grad)

    def _plain(self, loss: Tensor) -> Sequence[Tensor]:
        return torch.autograd.grad(loss, [p for _, p in self.params])

    def _private(self, loss: Tensor, job: TrainJob, step: int, size: int) -> Sequence[Tensor]:
        """Clipped and noised, over the batch size."""
        torch.autograd.backward(loss)
        rows: list[Tensor] = []
        for _, p in self.params:
            rows.append(getattr(p, "grad_sample"))  # noqa: B009  Opacus puts it there
            p.grad = None
            setattr(p, "grad_sample", None)  # noqa: B010
        norms = torch.stack([row.flatten(1).norm(dim=1) for row in rows], 1).norm(dim=1)
        weights = (self.scenario.privacy.knobs["max_grad_norm"] / norms).clamp(max=1)
        mechanism = self.mechanisms[job.bank]
        noise = torch.split(mechanism.noise(sum(self.sizes), mechanism.source(job, "noise", step)), self.sizes)
        sums = [torch.einsum("b,b...->...", weights, row) for row in rows]
        return [(total + part.view_as(total)) / size for total, part in zip(sums, noise, strict=True)]


def ours(name: str) -> str:
    """PEFT's parameter name as fedsim's."""
    module, kind = name.removeprefix("base_model.model.").rsplit(".lora_", 1)
    return f"{module}.{kind[0]}"


def _serve(pipe: Connection, file: Path) -> None:
    loop = _Loop(load_scenario(file))
    pipe.send(loop.flat())
    while (work := pipe.recv()) is not None:
        pipe.send(loop.share(*work))


def _start(file: Path, processes: int) -> list[Connection]:
    context, pipes = multiprocessing.get_context("spawn"), []
    for _ in range(processes):
        mine, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, file), daemon=True).start()
        pipes.append(mine)
    return pipes


def rounds(file: Path, processes: int) -> Iterator[Tensor]:
    """(P,) the global adapter before the first and after every round, names in sorted order. 0: in this process."""
    scenario = load_scenario(file)
    banks = [bank.name for bank in prepare(scenario).banks]
    pipes = _start(file, processes)
    loop = None if pipes else _Loop(scenario)
    flat: Tensor = loop.flat() if loop else [pipe.recv() for pipe in pipes][-1]  # equal in all of them
    yield flat
    for round_ in range(scenario.num_rounds):
        cohort = sample(banks, scenario.client_fraction, scenario.seed, round_)
        for number, pipe in enumerate(pipes):
            pipe.send((flat, round_, cohort[number::processes]))
        answers: list[Tensor] = [loop.share(flat, round_, cohort)] if loop else [pipe.recv() for pipe in pipes]
        flat = (torch.stack(answers).sum(0) / len(cohort)).float()
        yield flat
    for pipe in pipes:
        pipe.send(None)
