"""Measuring a round's model: every test row is scored once, and all metrics are computed from those scores.

The global adapter is scored on everyone's test rows in chunks of fixed size, so that the numbers do not depend on how
many actors there are; a bank's metrics are a slice of these scores. Under a personal rule (FedSA-LoRA, FDLoRA, local
training) a bank's metrics come from its own adapter, made at the actor from what the bank keeps, again scored once on
everyone's rows: ``auc`` on the bank's own test rows, ``everyone_auc`` on all.

Where F1 needs a threshold, it is chosen on training rows: everyone's for the global model, a bank's own for its own.

Evaluation is the simulator's instrument: what it moves is not counted as traffic, and nothing that is computed later
depends on it. So it comes in two halves, what is to be scored and what follows from the scores: actors may score a
state while others already train the next round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fedsim.core.adapter import AdapterState
from fedsim.core.messages import ServerState
from fedsim.engine.plan import Plan
from fedsim.engine.pool import Kept, OwnJob, Pool, Scoring
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


def scoring(plan: Plan, state: ServerState, kept: Mapping[str, Kept]) -> Scoring | None:
    """What is to be scored of ``state`` and, where the rule is personal, of each bank's own adapter; None: no rows."""
    everyone = np.unique(np.concatenate([bank.test for bank in plan.banks]))
    if len(everyone) == 0:
        return None
    cut_on = plan.evaluation.cut_on
    chunks = (*_chunks(everyone), *(() if cut_on is None else _chunks(cut_on)))
    own = tuple(_own_jobs(plan, state, kept)) if plan.evaluation.per_bank and _differ(plan, state.round) else ()
    return Scoring(Parcel(plan.strategy.serve(state), state.frozen), chunks, own, everyone)


def measured_banks(plan: Plan, round_: int) -> frozenset[str]:
    """The banks that an evaluation after ``round_`` measures."""
    if not plan.evaluation.per_bank:
        return frozenset()
    return frozenset(bank.name for bank in plan.banks if len(bank.test) or _differ(plan, round_))


def evaluated(plan: Plan, asked: Scoring, scores: Mapping[int, Scores]) -> Evaluated:
    """The metrics, from the ``scores`` of all that was ``asked`` for, by its number."""
    number, rows = len(_chunks(asked.rows)), range(len(asked.chunks))
    everyone = Scores.joined([scores[index] for index in rows[:number]])
    if len(rows) > number:
        everyone = replace(everyone, cut=f1_cut(Scores.joined([scores[index] for index in rows[number:]])))
    metrics = plan.evaluation.metrics(everyone)
    if not plan.evaluation.per_bank:
        return Evaluated(metrics)
    if not asked.own:
        return Evaluated(metrics, {bank.name: _own_metrics(plan, everyone, bank.test) for bank in plan.banks})
    personal: dict[str, Mapping[str, float]] = {}
    for index, bank in enumerate(plan.banks, start=len(rows)):
        on_all = plan.evaluation.metrics(scores[index])
        own = _own_metrics(plan, scores[index], bank.test)
        personal[bank.name] = {**own, **{f"everyone_{name}": value for name, value in on_all.items()}}
    return Evaluated(metrics, personal)


def own_adapters(
    plan: Plan, pool: Pool, state: ServerState, kept: Mapping[str, Kept]
) -> Iterator[tuple[str, AdapterState]]:
    """(bank, its own adapter) of every bank under a personal rule, as actors hand them out."""
    for index, adapter in pool.own_adapters(_own_jobs(plan, state, kept)):
        yield plan.banks[index].name, adapter


def _differ(plan: Plan, round_: int) -> bool:
    """Whether banks have adapters of their own: before the first round every bank's is the global one."""
    return plan.rule.personal and round_ > 0


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    return np.split(rows, range(CHUNK_ROWS, len(rows), CHUNK_ROWS))


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
