"""Where client actors live. The driver sees this protocol only: inline in its own process, or as Ray actors.

Every method answers as calls finish, with the index of the job, and the driver puts answers in the order of jobs before
anything is computed from them: arrival order drives the progress display and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from fedsim.core.adapter import AdapterState, Tensors
from fedsim.engine.actor import ClientActor
from fedsim.engine.resources import Actors, cohorts
from fedsim.engine.transport import Address, Delivery, Parcel, Reply
from fedsim.train.values import Scores

Kept = object
"""A bank's private state as the driver holds it: something to carry, never to read. None before a bank's first job."""


@dataclass(frozen=True, slots=True)
class OwnJob:
    """What an actor needs to make one bank's own adapter. Under a personal rule: an instrument, not traffic."""

    to: Address
    parcel: Parcel
    kept: Kept
    own: np.ndarray  # (n,) the bank's training rows


class Pool(Protocol):
    """Client actors that play any bank. All errors are FedsimError."""

    def ready(self) -> None:
        """Return when every actor is up and has loaded the base model. ResourceError when one cannot be placed."""

    def new_adapter(self, seed: int) -> AdapterState:
        """The adapter that training starts from."""

    def train(self, deliveries: Sequence[Delivery], kept: Sequence[Kept]) -> Iterator[tuple[int, Reply, Kept]]:
        """(index of the delivery, what the bank sent, what it keeps) as banks finish."""

    def evaluate(self, model: Parcel, chunks: Sequence[np.ndarray]) -> Iterator[tuple[int, Scores]]:
        """(index of the chunk, scores of its rows) under one adapter."""

    def evaluate_own(self, jobs: Sequence[OwnJob], rows: np.ndarray) -> Iterator[tuple[int, Scores]]:
        """(index of the job, scores of ``rows`` under that bank's own adapter)."""

    def own_adapters(self, jobs: Sequence[OwnJob]) -> Iterator[tuple[int, AdapterState]]:
        """(index of the job, that bank's own adapter), for export at the end of a run."""

    def close(self) -> None:
        """End every actor. Safe to call twice."""


class InlinePool:
    """One actor in this process: for tests, debugging and machines without Ray. ``kept`` is a plain value."""

    def __init__(self, client: ClientActor, actors: Actors) -> None:
        self._client, self._actors = client, replace(actors, num_actors=1)

    def ready(self) -> None:
        self._client.load()

    def new_adapter(self, seed: int) -> AdapterState:
        return self._client.new_adapter(seed)

    def train(self, deliveries: Sequence[Delivery], kept: Sequence[Kept]) -> Iterator[tuple[int, Reply, Kept]]:
        for group in cohorts(len(deliveries), self._actors):
            answers = self._client.train([deliveries[i].job() for i in group], [_value(kept[i]) for i in group])
            for index, (reply, mine) in zip(group, answers, strict=True):
                yield index, reply, mine

    def evaluate(self, model: Parcel, chunks: Sequence[np.ndarray]) -> Iterator[tuple[int, Scores]]:
        for index, rows in enumerate(chunks):
            yield index, self._client.evaluate(model, rows)

    def evaluate_own(self, jobs: Sequence[OwnJob], rows: np.ndarray) -> Iterator[tuple[int, Scores]]:
        for index, job in enumerate(jobs):
            yield index, self._client.evaluate_own(job.parcel.job(job.to), _value(job.kept), job.own, rows)

    def own_adapters(self, jobs: Sequence[OwnJob]) -> Iterator[tuple[int, AdapterState]]:
        for index, job in enumerate(jobs):
            yield index, self._client.own_adapter(job.parcel.job(job.to), _value(job.kept), job.own)

    def close(self) -> None:
        pass


def _value(kept: Kept) -> Tensors:
    return kept if isinstance(kept, dict) else {}
