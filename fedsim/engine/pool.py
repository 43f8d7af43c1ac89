"""Where client actors live. The driver sees this protocol only: inline in its own process, or as Ray actors.

Every method answers as calls finish, with the index of the job, and the driver puts answers in the order of jobs before
anything is computed from them: arrival order drives the progress display and nothing else.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from fedsim.core.adapter import AdapterState, Tensors
from fedsim.core.errors import FedsimError
from fedsim.core.events import Failed, Waiting
from fedsim.core.sections import Failures
from fedsim.engine.actor import ClientActor, describe
from fedsim.engine.checkpoint import pack_tensors, unpack_tensors
from fedsim.engine.failures import Decided, decide, failed, of_error
from fedsim.engine.resources import Actors, cohorts
from fedsim.engine.secure import Ask
from fedsim.engine.sums import Nodes
from fedsim.engine.transport import Address, Delivery, Parcel, Reply
from fedsim.engine.uplink import Received
from fedsim.train.values import Scores

Kept = object
"""A bank's private state as the driver holds it: something to carry, never to read. None before a bank's first job."""


@dataclass(frozen=True, slots=True)
class OwnJob:
    """What an actor needs to make one bank's own adapter. Under a personal rule: an instrument, not traffic."""

    to: Address
    parcel: Parcel
    kept: Kept
    own: np.ndarray  # (n,) training rows on which the bank tries it


@dataclass(frozen=True, slots=True)
class Scoring:
    """What is to be scored of a state, one call each: chunks of rows under one adapter, then banks' own adapters."""

    model: Parcel
    chunks: tuple[np.ndarray, ...]  # of rows
    own: tuple[OwnJob, ...]
    rows: np.ndarray  # (n,) on which own adapters are scored

    def __len__(self) -> int:
        return len(self.chunks) + len(self.own)


class Scored(NamedTuple):
    """``which`` counts the chunks, then the banks' own adapters."""

    which: int
    scores: Scores


class Answer(NamedTuple):
    """What one bank sent and what it keeps. ``which`` is the index of its delivery."""

    which: int
    reply: Reply | Received
    kept: Kept
    more: bool = False  # the answers of banks that were trained together with it follow at once


class Partial(NamedTuple):
    """What was added up of the updates of some banks, whose answers follow."""

    nodes: Nodes


class Pool(Protocol):
    """Client actors that play any bank. All errors are FedsimError."""

    def ready(self) -> Iterator[Waiting]:
        """Ends when every actor is up and has loaded the base model. ResourceError when one cannot be placed."""

    def new_adapter(self, seed: int) -> AdapterState:
        """The adapter that training starts from."""

    def train(
        self,
        deliveries: Sequence[Delivery],
        kept: Sequence[Kept],
        failures: Failures,
        decided: Decided,
        first: Scoring | None = None,
    ) -> Iterator[Scored | Partial | Answer | Failed | Waiting]:
        """Answers as banks finish, and every attempt that failed; what follows of it is done after it was taken.

        Banks that it was ``decided`` to skip are left out. The error of an abort is raised. What is to be scored
        ``first`` is told before anything else; actors that have none of it left to do train meanwhile.
        """

    def messages(self, asks: Sequence[Ask]) -> Iterator[tuple[int, bytes]]:
        """(index of the ask, the bank's next message of secure aggregation)."""

    def score(self, asked: Scoring) -> Iterator[Scored]:
        """All of it, in any order."""

    def own_adapters(self, jobs: Sequence[OwnJob]) -> Iterator[tuple[int, AdapterState]]:
        """(index of the job, that bank's own adapter), for export at the end of a run."""

    def save(self, kept: Kept) -> bytes:
        """What a bank keeps, for a file of its own that nobody looks into; empty when it keeps nothing."""

    def load(self, data: bytes) -> Kept:
        """The inverse of ``save``."""

    def close(self) -> None:
        """End every actor. Safe to call twice."""


class InlinePool:
    """One actor in this process: for tests, debugging and machines without Ray. ``kept`` is a plain value.

    A process cannot outlive its own death and has no deadline: what fails here is an exception of a bank's work.
    """

    def __init__(self, client: ClientActor, actors: Actors) -> None:
        self._client, self._actors = client, replace(actors, num_actors=1)

    def ready(self) -> Iterator[Waiting]:
        self._client.load()
        return iter(())

    def new_adapter(self, seed: int) -> AdapterState:
        return self._client.new_adapter(seed)

    def train(
        self,
        deliveries: Sequence[Delivery],
        kept: Sequence[Kept],
        failures: Failures,
        decided: Decided,
        first: Scoring | None = None,
    ) -> Iterator[Scored | Partial | Answer | Failed | Waiting]:
        if first is not None:
            yield from self.score(first)
        work = deque((group, 1) for group in groups(deliveries, self._actors, decided))
        while work:
            group, attempt = work.popleft()
            jobs = [deliveries[index].job() for index in group]
            try:
                orders = [deliveries[index].to.order for index in group]
                answers = self._client.train(jobs, [_value(kept[index]) for index in group], orders)
            except FedsimError as error:
                cause = of_error(error, describe(jobs))
                action = decide(failures, cause, attempt, len(group))
                yield from failed(cause, jobs[0].round, [job.bank for job in jobs], attempt, action)
                if action == "abort":
                    raise
                if action != "skip":
                    again = [group] if action == "retry" else [(index,) for index in group]
                    work.extendleft((part, attempt + 1) for part in reversed(again))
            else:
                if answers.nodes:
                    yield Partial(answers.nodes)
                yield from map(Answer, group, answers.replies, answers.kept)

    def messages(self, asks: Sequence[Ask]) -> Iterator[tuple[int, bytes]]:
        yield from enumerate(self._client.messages(asks))

    def score(self, asked: Scoring) -> Iterator[Scored]:
        for index, rows in enumerate(asked.chunks):
            yield Scored(index, self._client.evaluate(asked.model, rows))
        for index, job in enumerate(asked.own, start=len(asked.chunks)):
            mine = job.parcel.job(job.to), _value(job.kept), job.own
            yield Scored(index, self._client.evaluate_own(*mine, asked.rows))

    def own_adapters(self, jobs: Sequence[OwnJob]) -> Iterator[tuple[int, AdapterState]]:
        for index, job in enumerate(jobs):
            yield index, self._client.own_adapter(job.parcel.job(job.to), _value(job.kept), job.own)

    def save(self, kept: Kept) -> bytes:
        value = _value(kept)
        return pack_tensors(value) if value else b""

    def load(self, data: bytes) -> Kept:
        return unpack_tensors(data)

    def close(self) -> None:
        pass


def groups(deliveries: Sequence[Delivery], actors: Actors, decided: Decided) -> list[tuple[int, ...]]:
    """Which deliveries are trained together: the cohorts of all, less those who are skipped or go alone."""
    found: list[tuple[int, ...]] = []
    for cohort in cohorts(len(deliveries), actors):
        actions = {index: decided.get(deliveries[index].to.bank) for index in cohort}
        together = tuple(index for index, action in actions.items() if action is None)
        found += [together] if together else []
        found += [(index,) for index, action in actions.items() if action == "alone"]
    return found


def longest_first(
    found: Sequence[tuple[int, ...]], banks: Sequence[str], seconds: Mapping[str, float]
) -> list[tuple[int, ...]]:
    """Groups by the ``seconds`` that their banks took when they last trained, so that none begins as the others end.

    Banks that have not trained yet come first: how long they take is not known. The order reaches no bit of a result.
    """
    return sorted(found, key=lambda group: sum(seconds.get(banks[index], math.inf) for index in group), reverse=True)


def _value(kept: Kept) -> Tensors:
    return kept if isinstance(kept, dict) else {}
