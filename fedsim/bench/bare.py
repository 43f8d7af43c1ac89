"""The same training as a bare loop: PEFT's own layers, Opacus for row gradients, one bank after the other.

It shares with the engine what a comparison must hold equal (initial adapter, drawn rows, drawn noise) and computes
losses, gradients, clipping, steps and the mean by itself. Processes share the banks of a round; each has one thread.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn

from fedsim.build.load import load_scenario
from fedsim.build.prepare import make_job, prepare
from fedsim.core import seeds
from fedsim.core.adapter import AdapterState
from fedsim.core.messages import TrainJob
from fedsim.core.rows import BankRows, TokenRows
from fedsim.core.scenario import Scenario
from fedsim.core.sections import Train
from fedsim.engine.driver import sample
from fedsim.models.base import seeded_torch
from fedsim.privacy import Mechanism
from fedsim.train.sampling import fixed_rows


class Loop:
    """PEFT's own layers on one base model, and the banks that play it in turn.

    Opacus forms the row gradients where they are clipped.
    """

    def __init__(
        self,
        network: nn.Module,
        rows: TokenRows,
        banks: Mapping[str, BankRows],
        mechanisms: Mapping[str, Mechanism],
        train: Train,
    ) -> None:
        """``network`` holds PEFT's layers, whose weights alone are trained. All banks clip to one norm, or none do."""
        from opacus import GradSampleModule

        self.rows, self.banks, self.mechanisms, self.train = rows, banks, mechanisms, train
        self.clips_to = next(iter(mechanisms.values())).clips_to
        named = ((ours(n), p) for n, p in network.named_parameters() if p.requires_grad)
        self.params = sorted(named, key=lambda named: named[0])
        self.sizes = [p.numel() for _, p in self.params]
        self.model = network if self.clips_to is None else GradSampleModule(network, loss_reduction="mean")

    @classmethod
    def of(cls, scenario: Scenario) -> Loop:
        """What a scenario of the workloads describes, from its files."""
        from peft import LoraConfig, get_peft_model
        from peft.tuners.lora import LoraLayer
        from transformers import AutoModelForCausalLM

        material = prepare(scenario)
        if not isinstance(material.rows, TokenRows):
            raise TypeError("the bare loop trains on texts")
        lora = scenario.lora
        base = AutoModelForCausalLM.from_pretrained(scenario.model.knobs["id"])
        config = LoraConfig(
            r=lora.r, lora_alpha=lora.lora_alpha, target_modules=list(lora.target_modules or ()), task_type="CAUSAL_LM"
        )
        model: nn.Module = get_peft_model(base, config)
        with seeded_torch(scenario.seed):  # the run's own initial values
            for layer in model.modules():
                if isinstance(layer, LoraLayer):
                    layer.reset_lora_parameters("default", lora.init_lora_weights)
        banks = {bank.name: bank for bank in material.banks}
        return cls(model, material.rows, banks, make_job(scenario, material, "").plan.mechanisms, scenario.train)

    @property
    def device(self) -> torch.device:
        return self.params[0][1].device

    def flat(self) -> Tensor:
        """(P,) the adapter as it stands, names in sorted order."""
        return torch.cat([p.detach().reshape(-1) for _, p in self.params])

    def share(self, flat: Tensor, jobs: Sequence[TrainJob]) -> Tensor:
        """(P,) float64 sum of what the banks make of ``flat``. Of a job its round, bank and seed count."""
        total = torch.zeros(len(flat), dtype=torch.float64, device=flat.device)
        for job in jobs:
            self.load(flat)
            for step in range(self.train.local_steps or 0):
                self._step(job, step)
            total += self.flat().double()
        return total

    def load(self, flat: Tensor) -> None:
        with torch.no_grad():
            for (_, p), part in zip(self.params, torch.split(flat, self.sizes), strict=True):
                p.copy_(part.view_as(p))

    def _step(self, job: TrainJob, step: int) -> None:
        mechanism = self.mechanisms[job.bank]
        size = round(mechanism.plan.batch_size)
        drawn = fixed_rows(self.banks[job.bank].train, size, mechanism.source(job, "batch", step)).rows
        ids = torch.stack([torch.from_numpy(self.rows.row(index)).long() for index in drawn]).to(self.device)
        logits = self.model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        loss = nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
        grads = self._plain(loss) if self.clips_to is None else self._private(loss, self.clips_to, job, step)
        with torch.no_grad():
            for (_, p), grad in zip(self.params, grads, strict=True):
                p.sub_(self.train.lr * grad)

    def _plain(self, loss: Tensor) -> Sequence[Tensor]:
        return torch.autograd.grad(loss, [p for _, p in self.params])

    def _private(self, loss: Tensor, clips_to: float, job: TrainJob, step: int) -> Sequence[Tensor]:
        """Clipped and noised, over the batch size."""
        torch.autograd.backward(loss)
        rows: list[Tensor] = []
        for _, p in self.params:
            rows.append(getattr(p, "grad_sample"))  # noqa: B009  Opacus puts it there
            p.grad = None
            setattr(p, "grad_sample", None)  # noqa: B010
        norms = torch.stack([row.flatten(1).norm(dim=1) for row in rows], 1).norm(dim=1)
        weights = (clips_to / norms).clamp(max=1)
        mechanism = self.mechanisms[job.bank]
        drawn = mechanism.noise(sum(self.sizes), mechanism.source(job, "noise", step)).to(self.device)
        noise = torch.split(drawn, self.sizes)
        sums = [torch.einsum("b,b...->...", weights, row) for row in rows]
        return [(total + part.view_as(total)) / mechanism.divisor for total, part in zip(sums, noise, strict=True)]


def ours(name: str) -> str:
    """PEFT's parameter name as fedsim's."""
    module, kind = name.removeprefix("base_model.model.").rsplit(".lora_", 1)
    return f"{module}.{kind[0]}"


def one_threaded(scenario: Scenario) -> Loop:
    """The loop in this process, whose products then take one thread each."""
    torch.set_num_threads(1)
    return Loop.of(scenario)


def _serve(pipe: Connection, file: Path) -> None:
    loop = one_threaded(load_scenario(file))
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


def round_jobs(scenario: Scenario, banks: Sequence[str], round_: int) -> list[TrainJob]:
    """Who trains in a round and from which seed, as the engine has it; the adapter travels beside."""
    cohort = sample(banks, scenario.client_fraction, scenario.seed, round_)
    nothing = AdapterState({}, 0, 1.0)
    return [TrainJob(round_, bank, nothing, seed=seeds.derive(scenario.seed, "job", round_, bank)) for bank in cohort]


def rounds(file: Path, processes: int) -> Iterator[Tensor]:
    """(P,) the global adapter before the first and after every round, names in sorted order. 0: in this process."""
    scenario = load_scenario(file)
    banks = [bank.name for bank in prepare(scenario).banks]
    pipes = _start(file, processes)
    loop = None if pipes else one_threaded(scenario)
    flat: Tensor = loop.flat() if loop else [pipe.recv() for pipe in pipes][-1]  # equal in all of them
    yield flat
    for round_ in range(scenario.num_rounds):
        jobs = round_jobs(scenario, banks, round_)
        for number, pipe in enumerate(pipes):
            pipe.send((flat, jobs[number::processes]))
        answers: list[Tensor] = [loop.share(flat, jobs)] if loop else [pipe.recv() for pipe in pipes]
        flat = (torch.stack(answers).sum(0) / len(jobs)).float()
        yield flat
    for pipe in pipes:
        pipe.send(None)
