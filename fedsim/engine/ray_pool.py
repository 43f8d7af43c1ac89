"""Client actors as Ray actors: which calls there are, what they carry, and what is done when one fails.

A slot is an actor that any bank can use (``engine.slots``). A call that fails is repeated with the same inputs, which
gives the same bits, or what ``engine.failures`` decides. Parcels are put into the object store once each. What banks
keep stays there: every kept is a return value of its own, passed on by reference and never fetched by the driver.

Importing this module costs Ray and no torch, so that actors start while the driver still loads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from fedsim.core.events import Failed, Waiting
from fedsim.core.sections import Failures
from fedsim.engine.calls import Broken, Call, Done, Limit, Ref
from fedsim.engine.classify import classify
from fedsim.engine.failures import Decided, decide, failed
from fedsim.engine.handles import start
from fedsim.engine.lease import hold
from fedsim.engine.resources import Actors, cohorts
from fedsim.engine.slots import Slots

if TYPE_CHECKING:
    import numpy as np

    from fedsim.core.adapter import AdapterState, Tensors
    from fedsim.engine.actor import ClientActor
    from fedsim.engine.pool import Answer, Kept, OwnJob, Partial
    from fedsim.engine.secure import Ask
    from fedsim.engine.transport import Address, Delivery, Parcel
    from fedsim.train.values import Scores

SAMPLES = 3  # attempts that must have been answered before their median sets a deadline


class _Process:
    """What runs in an actor's process: a ClientActor behind calls whose arguments and results are values."""

    def __init__(self) -> None:
        self._client: ClientActor | None = None
        hold()

    def where(self) -> tuple[str, int]:
        """Node and process id."""
        return ray.get_runtime_context().get_node_id(), os.getpid()

    def load(self, boxed: list[Ref]) -> None:
        """Play the banks of a run from now on, whose client's maker is the one reference in ``boxed``."""
        self._client = None  # before another base takes its memory
        make_client: Callable[[], ClientActor] = ray.get(boxed[0])
        self._client = make_client()
        self._client.load()

    def weights(self) -> list[np.ndarray]:
        """Of the loaded base, for all actors of this node: Ray keeps one copy there, which they map.

        Nothing where it would take more than half of the node's object store.
        """
        found, here = self.client.weights(), ray.get_runtime_context().get_node_id()
        rooms = [node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["NodeID"] == here]
        return found if 2 * sum(map(len, found)) <= sum(rooms) else []  # a node that Ray takes for dead has none

    def adopt(self, weights: Sequence[np.ndarray]) -> int:
        return self.client.adopt(weights) if weights else 0

    @property
    def client(self) -> ClientActor:
        if self._client is None:
            raise RuntimeError("an actor was asked before it was told to load")
        return self._client

    def new_adapter(self, seed: int) -> AdapterState:
        return self.client.new_adapter(seed)

    def train(self, addresses: Sequence[Address], which: Sequence[int], *values: Any) -> tuple[Any, ...]:
        """((replies, sums), kept of each bank ...).

        ``values`` are parcels, then each bank's kept; ``which`` is its parcel.
        """
        parcels, kept = values[: -len(addresses)], values[-len(addresses) :]
        jobs = [parcels[index].job(to) for to, index in zip(addresses, which, strict=True)]
        answers = self.client.train(jobs, kept, [to.order for to in addresses])
        return (answers.replies, answers.nodes), *answers.kept

    def messages(self, asks: Sequence[Ask]) -> list[bytes]:
        return self.client.messages(asks)

    def evaluate(self, model: Parcel, rows: np.ndarray) -> Scores:
        return self.client.evaluate(model, rows)

    def evaluate_own(self, to: Address, parcel: Parcel, kept: Tensors, own: np.ndarray, rows: np.ndarray) -> Scores:
        return self.client.evaluate_own(parcel.job(to), kept, own, rows)

    def own_adapter(self, to: Address, parcel: Parcel, kept: Tensors, own: np.ndarray) -> AdapterState:
        return self.client.own_adapter(parcel.job(to), kept, own)


class RayPool:
    """``num_actors`` slots. ``make_client`` is a reference to a ``Callable[[], ClientActor]`` in the object store."""

    def __init__(self, make_client: Ref, actors: Actors) -> None:
        self._actors = actors
        self._seconds: dict[str, float] = {}  # by bank: its share of the time of the last cohort that it was in
        boxed = [make_client]  # a reference inside a list is not fetched before the actor asks
        self._slots = Slots(lambda: start(_Process, actors.cpus, actors.gpus), actors, boxed)

    def suits(self, actors: Actors) -> bool:
        """Whether a run that asks for ``actors`` can have these: as many at least, of the same size."""
        mine = self._actors
        return (actors.cpus, actors.gpus) == (mine.cpus, mine.gpus) and (actors.num_actors or 1) <= len(self._slots)

    def assign(self, make_client: Ref, actors: Actors) -> None:
        """Let the actors play the banks of another run; one that they have played must have come to its end."""
        self._actors = actors
        self._slots.assign([make_client])

    def ready(self) -> Iterator[Waiting]:
        return self._slots.ready()

    def new_adapter(self, seed: int) -> AdapterState:
        calls = [Call("drawing the initial adapter", "new_adapter", (seed,))]
        adapter: AdapterState = next(self._run(calls)).value
        return adapter

    def train(
        self, deliveries: Sequence[Delivery], kept: Sequence[Kept], failures: Failures, decided: Decided
    ) -> Iterator[Partial | Answer | Failed | Waiting]:
        from fedsim.engine.pool import Answer, Partial, groups, longest_first

        round_, banks = _Round(deliveries, kept), [delivery.to.bank for delivery in deliveries]
        ordered = longest_first(groups(deliveries, self._actors, decided), banks, self._seconds)
        queue = deque(round_.call(group) for group in ordered)
        for result in self._slots.serve(queue, self._limit(failures)):
            if isinstance(result, Waiting):
                yield result
                continue
            call = result.call
            if isinstance(result, Done):
                self._seconds |= {banks[index]: result.seconds / len(call.banks) for index in call.banks}
                replies, nodes = result.value
                if nodes:
                    yield Partial(nodes)
                yield from map(Answer, call.banks, replies, result.others)
                continue
            cause, concerned = result.cause, [banks[index] for index in call.banks]
            action = decide(failures, cause, call.attempt, len(concerned))
            yield from failed(cause, deliveries[call.banks[0]].to.round, concerned, call.attempt, action)
            if action == "abort":
                raise cause.as_error(f"{call.what}, attempt {call.attempt}")
            if action != "skip":
                again = [call.banks] if action == "retry" else [(index,) for index in call.banks]
                queue.extendleft(round_.call(group, call.attempt + 1) for group in reversed(again))

    def messages(self, asks: Sequence[Ask]) -> Iterator[tuple[int, bytes]]:
        shares = cohorts(len(asks), self._actors)
        calls = [
            Call("secure aggregation", "messages", ([asks[index] for index in share],), key=number)
            for number, share in enumerate(shares)
        ]
        for done in self._run(calls):
            yield from zip(shares[done.call.key], done.value, strict=True)

    def evaluate(self, model: Parcel, chunks: Sequence[np.ndarray]) -> Iterator[tuple[int, Scores]]:
        ref = ray.put(model)
        calls = [
            Call("evaluating the global adapter", "evaluate", (ref, rows), key=number)
            for number, rows in enumerate(chunks)
        ]
        for done in self._run(calls):
            yield done.call.key, done.value

    def evaluate_own(self, jobs: Sequence[OwnJob], rows: np.ndarray) -> Iterator[tuple[int, Scores]]:
        yield from self._run_own("evaluate_own", jobs, ray.put(rows))

    def own_adapters(self, jobs: Sequence[OwnJob]) -> Iterator[tuple[int, AdapterState]]:
        yield from self._run_own("own_adapter", jobs)

    def save(self, kept: Kept) -> bytes:
        """The one place where the driver's process holds what a bank keeps: on its way to the bank's own file."""
        from fedsim.engine.checkpoint import pack_tensors

        try:
            value = {} if kept is None else ray.get(kept)
        except RayError as error:
            what = "saving what a bank keeps"
            raise classify(error, what).as_error(what) from error
        return pack_tensors(value) if value else b""

    def load(self, data: bytes) -> Kept:
        from fedsim.engine.checkpoint import unpack_tensors

        return ray.put(unpack_tensors(data))

    def _run_own(self, method: str, jobs: Sequence[OwnJob], *more: Ref) -> Iterator[tuple[int, Any]]:
        from fedsim.engine.actor import describe

        store = _Store()
        calls = []
        for number, job in enumerate(jobs):
            args = (job.to, store.put(job.parcel), {} if job.kept is None else job.kept, job.own, *more)
            calls.append(Call(describe([job.to]), method, args, key=number))
        for done in self._run(calls):
            yield done.call.key, done.value

    def close(self) -> None:
        """End every actor. Safe to call twice."""
        self._slots.close()

    # ------------------------------------------------------------------------------------------------- calls

    def _limit(self, failures: Failures) -> Limit:
        """Seconds that an attempt may take, from what the run's attempts at the same work took so far."""

        def limit(method: str) -> float | None:
            past = self._slots.took.get(method, ())
            if failures.deadline_factor is None or len(past) < SAMPLES:
                return failures.deadline_s
            return failures.deadline_factor * median(past)

        return limit

    def _run(self, calls: Sequence[Call]) -> Iterator[Done]:
        """Calls that no bank answers for: repeated where the process fails, and an error where that does not help."""
        queue = deque(calls)
        for result in self._slots.serve(queue, lambda method: None):
            if isinstance(result, Done):
                yield result
            elif isinstance(result, Broken):
                call, cause = result.call, result.cause
                if decide(Failures(), cause, call.attempt, 1) != "retry":
                    raise cause.as_error(f"{call.what}, attempt {call.attempt}")
                queue.appendleft(replace(call, attempt=call.attempt + 1))


class _Round:
    """Makes the calls of one round. Every distinct parcel is put into the object store once."""

    def __init__(self, deliveries: Sequence[Delivery], kept: Sequence[Kept]) -> None:
        self._deliveries, self._kept, self._store = deliveries, kept, _Store()

    def call(self, group: Sequence[int], attempt: int = 1) -> Call:
        """The call that trains these banks as a cohort."""
        from fedsim.engine.actor import describe

        addresses = [self._deliveries[index].to for index in group]
        parcels = [self._store.put(self._deliveries[index].parcel) for index in group]
        distinct = list(dict.fromkeys(parcels))
        which = [distinct.index(parcel) for parcel in parcels]
        mine = [{} if self._kept[index] is None else self._kept[index] for index in group]
        args = (addresses, which, *distinct, *mine)
        return Call(describe(addresses), "train", args, 1 + len(addresses), banks=tuple(group), attempt=attempt)


class _Store:
    """Puts every distinct object into the object store once."""

    def __init__(self) -> None:
        self._refs: dict[int, tuple[object, Ref]] = {}

    def put(self, value: object) -> Ref:
        if id(value) not in self._refs:
            self._refs[id(value)] = (value, ray.put(value))
        return self._refs[id(value)][1]
