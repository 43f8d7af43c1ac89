"""The attacker beside a run: it sees what crosses in every round and the model at the end, and then guesses.

It holds the base model and the planted rows, and not their coins until it is marked. Rows are scored in this process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from fedsim.attacks.bounds import lower_bound
from fedsim.attacks.gradients import Listener, row_losses
from fedsim.attacks.inversion import Inverted, inverted
from fedsim.attacks.membership import auc, auc_se, confidence, lira, true_positive_rate
from fedsim.attacks.planting import Planted, ordinary, tossed, training
from fedsim.build.prepare import Job, Material, make_job
from fedsim.core import seeds
from fedsim.core.adapter import Tensors, flatten, unflatten
from fedsim.core.errors import DataError
from fedsim.core.events import Event, Seen, Served, ShadowDone
from fedsim.core.messages import TrainJob
from fedsim.core.rows import TokenRows
from fedsim.core.scenario import Scenario
from fedsim.core.sections import Audit
from fedsim.models.base import CohortModel

DELTA = 1e-5  # where no mechanism says at which delta


def shadow_jobs(scenario: Scenario, material: Material, run_dir: str) -> list[Job]:
    """The run again with other coins and other draws, as often as the audit asks."""
    if scenario.audit is None or material.planted is None:
        return []
    jobs = []
    for number in range(1, scenario.audit.shadow_runs + 1):
        banks = training(material.whole, tossed(material.planted, scenario.seed, number))
        changes = {"seed": seeds.derive(scenario.seed, "shadow run", number), "audit": None}
        evaluate = scenario.evaluate.model_copy(update={"every": scenario.num_rounds})
        shadow = scenario.model_copy(update={**changes, "evaluate": evaluate})
        jobs.append(make_job(shadow, replace(material, banks=banks), run_dir))
    return jobs


class Auditor:
    """``result`` is the summary's ``audit``."""

    def __init__(self, audit: Audit, planted: Planted, job: Job, ordinary: Mapping[str, np.ndarray], seed: int) -> None:
        self.audit, self.planted, self.job, self.ordinary, self.seed = audit, planted, job, ordinary, seed
        self.inverted: list[Inverted] = []
        self.confidences: list[np.ndarray] = []  # of the members, under the run's model and under each shadow's

    @classmethod
    def of(cls, scenario: Scenario, material: Material, job: Job) -> Auditor | None:
        if scenario.audit is None or material.planted is None:
            return None
        known = ordinary(material.whole, material.planted, scenario.seed)
        return cls(scenario.audit, material.planted, job, known, scenario.seed)

    @cached_property
    def model(self) -> CohortModel:
        return self.job.make_client.make_trainer.base()

    @cached_property
    def listener(self) -> Listener:
        chosen, rows = self.planted.canary, self.job.make_client.make_trainer.rows
        return Listener(self.model, rows, self.planted.rows[chosen], self.planted.banks[chosen], self.ordinary)

    @property
    def members(self) -> np.ndarray:
        """Positions of the members among the planted rows."""
        return np.flatnonzero(~self.planted.canary)

    def take(self, event: Event) -> None:
        """Look at what an event shows to an attacker."""
        if isinstance(event, Seen):
            if not self.inverted:
                self.inverted = [one for exchange in event.exchanges for one in self._inverted(exchange.job)]
            self.listener.hear(event.exchanges)
        elif isinstance(event, Served) and event.bank is None and len(self.members):
            self.confidences.append(self._confidences(event))
        elif isinstance(event, ShadowDone):
            self.confidences.append(self._confidences(event.served))

    def _inverted(self, job: TrainJob) -> Iterator[Inverted]:
        """A bank's first rows that are not planted: each the only one of a step, as the mechanism lets it go."""
        rows, mechanism = self.job.make_client.make_trainer.rows, self.job.plan.mechanisms[job.bank]
        if not self.audit.inversions:
            return
        if not isinstance(rows, TokenRows):
            raise DataError("images have no words that could be guessed; remove audit.inversions", "audit")
        for row in self.ordinary[job.bank][: self.audit.inversions]:

            def release(gradient: dict[str, Tensor], number: int = int(row)) -> Tensors:
                flat = flatten(gradient)
                noise = mechanism.noise(len(flat), mechanism.source(job, "noise of an inversion", number))
                released = unflatten(mechanism.weights(flat.norm()[None]) * flat + noise, gradient)
                return mechanism.release(released, mechanism.source(job, "release of an inversion", number))

            self.model.set_frozen(job.frozen)
            yield inverted(self.model, rows, job.adapter, int(row), release)

    def _confidences(self, served: Served) -> np.ndarray:
        """(members,) of each member's own answer."""
        self.model.set_frozen(served.frozen)
        indices = self.planted.rows[self.members]
        return confidence(row_losses(self.model, self.job.make_client.make_trainer.rows, served.adapter, indices))

    def result(self) -> dict[str, Any]:
        """How well the guesses went, and the epsilon that they refute."""
        chosen, terms = self.planted.canary, next(iter(self.job.plan.mechanisms.values())).terms
        scores, included = self.listener.scores, self.planted.included[chosen]
        bound = lower_bound(scores, included, terms.dp_delta if terms else DELTA, self.audit.confidence)
        return {
            "epsilon_lower": bound.epsilon,
            "confidence": self.audit.confidence,
            "canaries": len(scores),
            "rounds": self.listener.rounds,  # fewer than the run's where it was resumed
            "guesses": bound.guesses,
            "correct": bound.correct,
            "auc": auc(scores, included),
            "auc_se": auc_se(included),
            "membership": self._membership(),
            "inversion": {
                "rows": len(self.inverted),
                "auc": float(np.mean([one.auc for one in self.inverted])),
                "recovered": float(np.mean([one.recovered for one in self.inverted])),
            }
            if self.inverted
            else {},
        }

    def _membership(self) -> Mapping[str, Mapping[str, float]]:
        """By bank, and of all banks together: the loss threshold, and LiRA where there are shadow runs."""
        if not len(self.members) or not self.confidences:
            return {}
        observed, *shadows = self.confidences
        attacks = {"loss": observed}
        if shadows:
            coins = [tossed(self.planted, self.seed, number + 1).included for number in range(len(shadows))]
            attacks["lira"] = lira(observed, np.stack(shadows), np.stack(coins)[:, self.members])
        included, names = self.planted.included[self.members], self.planted.banks[self.members]
        groups = {"all banks": np.full(len(names), True), **{bank: names == bank for bank in np.unique(names)}}
        return {group: _measured(attacks, included, inside) for group, inside in groups.items()}


def _measured(attacks: Mapping[str, np.ndarray], included: np.ndarray, inside: np.ndarray) -> dict[str, float]:
    told: dict[str, float] = {}
    for name, scores in attacks.items():
        told[f"{name}_auc"] = auc(scores[inside], included[inside])
        told[f"{name}_tpr_at_1pct_fpr"] = true_positive_rate(scores[inside], included[inside])
    return told
