"""Measuring a round's model: every test row is scored once, and all metrics are computed from those scores.

The global adapter is scored on everyone's test rows in chunks of fixed size, so that the numbers do not depend on how
many actors there are; a bank's metrics are a slice of these scores. Under a personal rule (FedSA-LoRA, FDLoRA, local
training) a bank's metrics come from its own adapter, made at the actor from what the bank keeps, again scored once on
everyone's rows: ``auc`` on the bank's own test rows, ``everyone_auc`` on all.

Where F1 needs a threshold, it is chosen on training rows: everyone's for the global model, a bank's own for its own.

Evaluation is the simulator's instrument: what it moves is not counted as traffic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fedsim.core.adapter import AdapterState
from fedsim.core.messages import ServerState
from fedsim.engine.plan import Plan
from fedsim.engine.pool import Kept, OwnJob, Pool
from fedsim.engine.transport import Address, Parcel
from fedsim.train.metrics import f1_cut
from fedsim.train.reuse import tried_rows
from fedsim.train.values import Scores

CHUNK_ROWS = 256


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Metrics of one round: of the global model on everyone's rows, and by bank. Empty when not evaluated."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    banks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def evaluate(plan: Plan, pool: Pool, state: ServerState, kept: Mapping[str, Kept]) -> Evaluated:
    """Evaluate ``state`` and, where the rule is personal, each bank's own adapter."""
    everyone = np.unique(np.concatenate([bank.test for bank in plan.banks]))
    if len(everyone) == 0:
        return Evaluated()
    scores = _global_scores(plan, pool, state, everyone)
    metrics = plan.evaluation.metrics(scores)
    if not plan.evaluation.per_bank:
        return Evaluated(metrics)
    if plan.rule.personal and state.round > 0:  # before that every bank's own adapter is the global one
        return Evaluated(metrics, _personal_metrics(plan, pool, state, kept, everyone))
    return Evaluated(metrics, {bank.name: _own_metrics(plan, scores, bank.test) for bank in plan.banks})


def _global_scores(plan: Plan, pool: Pool, state: ServerState, rows: np.ndarray) -> Scores:
    chunks, cut_on = _chunks(rows), plan.evaluation.cut_on
    more = [] if cut_on is None else _chunks(cut_on)
    parts = dict(pool.evaluate(Parcel(plan.strategy.serve(state), state.frozen), [*chunks, *more]))
    ordered = [parts[index] for index in range(len(parts))]
    scores = Scores.joined(ordered[: len(chunks)])
    return replace(scores, cut=f1_cut(Scores.joined(ordered[len(chunks) :]))) if more else scores


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    return np.split(rows, range(CHUNK_ROWS, len(rows), CHUNK_ROWS))


def _personal_metrics(
    plan: Plan, pool: Pool, state: ServerState, kept: Mapping[str, Kept], rows: np.ndarray
) -> dict[str, Mapping[str, float]]:
    found = dict(pool.evaluate_own(_own_jobs(plan, state, kept), rows))
    metrics: dict[str, Mapping[str, float]] = {}
    for index, bank in enumerate(plan.banks):
        everyone = plan.evaluation.metrics(found[index])
        own = _own_metrics(plan, found[index], bank.test)
        metrics[bank.name] = {**own, **{f"everyone_{name}": value for name, value in everyone.items()}}
    return metrics


def own_adapters(
    plan: Plan, pool: Pool, state: ServerState, kept: Mapping[str, Kept]
) -> Iterator[tuple[str, AdapterState]]:
    """(bank, its own adapter) of every bank under a personal rule, as actors hand them out."""
    for index, adapter in pool.own_adapters(_own_jobs(plan, state, kept)):
        yield plan.banks[index].name, adapter


def _own_jobs(plan: Plan, state: ServerState, kept: Mapping[str, Kept]) -> list[OwnJob]:
    jobs = []
    for bank in plan.banks:
        job = plan.strategy.configure(state, bank.name, plan.seed)
        address, parcel = Address(job.round, job.bank, job.seed), Parcel(job.adapter, job.frozen, job.slots)
        jobs.append(OwnJob(address, parcel, kept.get(bank.name), tried_rows(bank, plan.seed)))
    return jobs


def _own_metrics(plan: Plan, scores: Scores, test: np.ndarray) -> Mapping[str, float]:
    """Metrics of a bank's test rows, cut out of the scores of everyone's (sorted) rows."""
    return plan.evaluation.metrics(scores.take(np.searchsorted(scores.rows, test))) if len(test) else {}
