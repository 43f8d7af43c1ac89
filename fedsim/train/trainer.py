"""One loaded base model that plays any number of banks: local training of a cohort, and evaluation.

A local step of a cohort, in order:

    sampled batch of each bank -> one pass through the shared base -> weighted (clipped) sums of row gradients
    -> noise (on an empty batch too) -> divide by the EXPECTED batch size -> the method's correction -> optimizer

With customers as the unit, read customer for row; a bank-level mechanism acts once, on the finished update.

Banks of one cohort share nothing but the base: a cohort of K equals K banks one by one up to float rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fedsim.core.adapter import AdapterState, Tensors
from fedsim.core.aligned import aligned
from fedsim.core.errors import FedsimError
from fedsim.core.messages import TrainJob
from fedsim.core.rows import BankRows, Rows
from fedsim.core.sections import Train
from fedsim.models.base import CohortModel
from fedsim.models.lora import Cohort
from fedsim.privacy.base import Mechanism
from fedsim.privacy.sources import Source
from fedsim.strategies.base import LocalContext, LocalRule
from fedsim.train.answers import judge
from fedsim.train.checks import check_moved, check_noise
from fedsim.train.cohort import CohortState
from fedsim.train.gradients import Gradients, Tally, row_norms
from fedsim.train.heap import give_back
from fedsim.train.metrics import f1_cut
from fedsim.train.optimizers import learning_rate, make_optimizer
from fedsim.train.reuse import scored_groups, trained_groups
from fedsim.train.sampling import Drawn, fixed_rows, poisson_rows, poisson_units
from fedsim.train.values import EvalJob, Scores, Trained

NOTHING = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class LocalTraining:
    """What every job of a run shares."""

    rule: LocalRule
    train: Train
    num_rounds: int
    banks: Mapping[str, BankRows]
    mechanisms: Mapping[str, Mechanism]
    units: np.ndarray | None = None  # (rows of the corpus,) int64: whose row each is; None: every row its own
    scored: np.ndarray = field(default_factory=lambda: NOTHING)  # (n,) the rows that evaluations will score, sorted
    tried: Mapping[str, np.ndarray] = field(default_factory=dict)  # by bank: rows to try its own final adapters on
    answer_tokens: int = 0  # of the longest answer that evaluation writes; 0: it writes none
    cuts: bool = False  # whether evaluation needs a threshold


class Trainer:
    """Plays banks on one model. Needs no Ray, no driver and no files."""

    def __init__(self, model: CohortModel, rows: Rows, local: LocalTraining) -> None:
        self.model, self.rows, self.local = model, rows, local
        self.checked = False
        plans = {name: mechanism.plan for name, mechanism in local.mechanisms.items()}
        trained = trained_groups(rows, local.banks, plans, local.num_rounds, local.tried)
        model.remember(rows, trained, scored_groups(rows, local.scored, trained))

    def new_adapter(self, seed: int) -> AdapterState:
        return self.model.new_adapter(seed)

    def weights(self) -> list[np.ndarray]:
        """The frozen weights as bytes, for other processes of this machine."""
        return self.model.weights()

    def adopt(self, weights: Sequence[np.ndarray]) -> int:
        """Use the weights of another process instead of an own copy; how many bytes are shared from now on."""
        shared = self.model.adopt(weights)
        give_back()
        return shared

    # ---------------------------------------------------------------- training

    def train(self, jobs: Sequence[TrainJob], kept: Sequence[Tensors]) -> list[Trained]:
        """Train the banks of ``jobs`` together; results in the order of jobs. All jobs are of one round."""
        local, round_ = self.local, jobs[0].round
        self.model.set_frozen(jobs[0].frozen)
        starts = [local.rule.start(job, mine) for job, mine in zip(jobs, kept, strict=True)]
        trained = [name for name in starts[0].tensors if local.rule.trains(name, round_)]
        state = CohortState(starts, trained, self.model.device)
        mechanisms = [local.mechanisms[job.bank] for job in jobs]
        lr = learning_rate(local.train, round_, local.num_rounds)
        steps = [mechanism.plan.steps_per_round for mechanism in mechanisms]
        contexts = [
            LocalContext(job=job, start=start.tensors, kept=mine, lr=lr, num_steps=number)
            for job, start, mine, number in zip(jobs, starts, kept, steps, strict=True)
        ]
        tallies = [Tally() for _ in jobs]
        self._run_steps(state, contexts, mechanisms, tallies)
        return [
            self._finish(state, bank, context, mechanisms[bank], tallies[bank]) for bank, context in enumerate(contexts)
        ]

    def _run_steps(
        self,
        state: CohortState,
        contexts: Sequence[LocalContext],
        mechanisms: Sequence[Mechanism],
        tallies: Sequence[Tally],
    ) -> None:
        gradients = Gradients(self.model, self.rows, state, mechanisms)
        optimizer = make_optimizer(self.local.train, state.params)
        divisors = torch.tensor([mechanism.divisor for mechanism in mechanisms], device=state.device)[:, None]
        corrects = type(self.local.rule).correct is not LocalRule.correct
        lr = contexts[0].lr * self._lr_scales(state)
        for step in range(max(context.num_steps for context in contexts)):
            active = [bank for bank, context in enumerate(contexts) if step < context.num_steps]
            batches = [
                self.drawn(context.job, step) if bank in active else Drawn.of_rows(NOTHING)
                for bank, context in enumerate(contexts)
            ]
            grads = gradients.sums(batches, self.local.train.max_rows, tallies)
            for bank in active:
                source = mechanisms[bank].source(contexts[bank].job, "noise", step)
                self._privatise(grads, state, bank, mechanisms[bank], source)
            grads /= divisors
            if corrects:
                for bank in active:
                    params, grad = state.bank_views(state.params, bank), state.bank_views(grads, bank)
                    self.local.rule.correct(params, grad, replace(contexts[bank], step=step))
            everyone = len(active) == len(contexts)
            chosen = slice(None) if everyone else torch.tensor(active, device=state.device)
            optimizer.step(state.params, grads, chosen, lr)

    def _lr_scales(self, state: CohortState) -> Tensor:
        """(P,) the method's factor on the learning rate of every trained value."""
        names, sizes = state.layout.names, state.layout.sizes
        scales = torch.tensor([self.local.rule.lr_scale(name) for name in names])
        return scales.repeat_interleave(torch.tensor(sizes)).to(state.device)

    def drawn(self, job: TrainJob, step: int) -> Drawn:
        """The rows of a bank in one local step (from 0): the same whenever it is asked."""
        mechanism = self.local.mechanisms[job.bank]
        rows, plan = self.local.banks[job.bank].train, mechanism.plan
        source = mechanism.source(job, "batch", step)
        if plan.sampling == "fixed":
            return fixed_rows(rows, round(plan.batch_size), source)
        if mechanism.rows_per_unit is None or self.local.units is None:
            return poisson_rows(rows, plan.sample_rate, source)
        return poisson_units(rows, self.local.units[rows], plan.sample_rate, mechanism.rows_per_unit, source)

    def _privatise(self, grads: Tensor, state: CohortState, bank: int, mechanism: Mechanism, source: Source) -> None:
        """Clip (where the batch is clipped) and noise one bank's summed gradient, in place."""
        if not (mechanism.per_row or mechanism.per_batch):
            return
        noise = mechanism.noise(state.num_trained(bank), source)
        if not self.checked:
            check_noise(noise, mechanism)
        if mechanism.per_batch:  # the mean is clipped and noised; it is still to be divided
            weight = mechanism.weights(row_norms(grads[bank : bank + 1]) / mechanism.divisor)
            grads[bank] = (weight * grads[bank]).nan_to_num(0, 0, 0)
            noise *= mechanism.divisor
        state.add_noise(grads, bank, noise)

    def _finish(
        self, state: CohortState, bank: int, context: LocalContext, mechanism: Mechanism, tally: Tally
    ) -> Trained:
        adapter = state.adapter(bank)
        if not self.checked:
            saw_rows = tally.rows > 0 or mechanism.per_row or mechanism.per_batch
            if saw_rows and type(self.local.rule).correct is LocalRule.correct:  # a correction may hold values in place
                check_moved(adapter, state.layout.names, context)
            self.checked = True
        outcome = self.local.rule.finish(adapter, context)
        if mechanism.per_update and outcome.slots:
            raise FedsimError(f"the method sends {', '.join(outcome.slots)} beside its update, which nothing protects")
        released = mechanism.release(outcome.delta, mechanism.source(context.job, "release"))
        return Trained(
            bank=context.job.bank,
            outcome=replace(outcome, delta=released),
            num_examples=self.local.banks[context.job.bank].num_examples,
            num_steps=context.num_steps,
            spend=mechanism.spend(context.num_steps),
            oracle=tally.as_oracle(),
        )

    # ---------------------------------------------------------------- evaluation

    @torch.no_grad()
    def evaluate(self, jobs: Sequence[EvalJob]) -> list[Scores]:
        """Scores of each job's rows under its adapter. Changes no bit of any later training."""
        return [self._evaluate(job) for job in jobs]

    def _evaluate(self, job: EvalJob) -> Scores:
        scores = self._score(job)
        if job.cut_on is None or not self.local.cuts:
            return scores
        return replace(scores, cut=f1_cut(self._score(replace(job, rows=job.cut_on, written=False))))

    def _score(self, job: EvalJob) -> Scores:
        self.model.set_frozen(job.frozen)
        device = self.model.device
        leaves = {name: aligned(tensor)[None].to(device) for name, tensor in job.adapter.tensors.items()}
        cohort = Cohort(leaves, torch.tensor([job.adapter.scaling], device=device))
        scores, losses, judged = [], [], []
        length = self.local.answer_tokens if job.written else 0
        with self.model.using(cohort):
            for part in self._by_length(job.rows):
                part_scores, part_losses = self.model.label_scores(self.rows, part)
                scores.append(part_scores)
                losses.append(part_losses)
                judged.append(
                    judge(self.model.answers(self.rows, part, length)) if length else np.zeros((len(part), 0))
                )
        order = np.argsort(np.argsort(self.rows.lengths(job.rows), kind="stable"), kind="stable")
        num_labels = len(scores[0][0]) if scores else 0
        log_probs = torch.cat(scores).numpy()[order] if scores else np.zeros((0, num_labels))
        nll = torch.cat(losses).numpy()[order] if losses else np.zeros(0)
        scored = np.concatenate(judged)[order] if judged else np.zeros((0, 0))
        return Scores(job.rows, self.rows.labels[job.rows], log_probs, nll, scored)

    def _by_length(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Rows of similar length together, so that little is padded; at most ``max_rows`` at a time."""
        ordered = indices[np.argsort(self.rows.lengths(indices), kind="stable")]
        size = self.local.train.max_rows
        for start in range(0, len(ordered), size):
            yield ordered[start : start + size]
