"""Client actors as Ray actors: which calls there are, what they carry, and what is done when one fails.

A slot is an actor that any bank can use (``engine.slots``). A call that fails is repeated with the same inputs, which
gives the same bits, or what ``engine.failures`` decides. Parcels are put into the object store once each. What banks
keep stays there: every kept is a return value of its own, passed on by reference and never fetched by the driver.

Importing this module costs Ray and no torch, so that actors start while the driver still loads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

import ray
from ray.exceptions import RayError

from fedsim.core.events import Failed, Waiting
from fedsim.core.sections import Failures
from fedsim.engine.calls import Broken, Call, Done, Limit, Ref
from fedsim.engine.classify import classify
from fedsim.engine.failures import Decided, decide, failed
from fedsim.engine.handles import start
from fedsim.engine.process import ClientProcess
from fedsim.engine.resources import Actors, cohorts
from fedsim.engine.slots import Slots

if TYPE_CHECKING:
    from fedsim.core.adapter import AdapterState
    from fedsim.engine.pool import Answer, Kept, OwnJob, Partial, Scored, Scoring
    from fedsim.engine.secure import Ask
    from fedsim.engine.transport import Delivery

SAMPLES = 3  # attempts that must have been answered before their median sets a deadline


class RayPool:
    """``num_actors`` slots. ``make_client`` is a reference to a ``Callable[[], ClientActor]`` in the object store."""

    def __init__(self, make_client: Ref, actors: Actors) -> None:
        self._actors = actors
        self._seconds: dict[str, float] = {}  # by bank: its share of the time of the last cohort that it was in
        boxed = [make_client]  # a reference inside a list is not fetched before the actor asks
        self._slots = Slots(lambda: start(ClientProcess, actors.cpus, actors.gpus), actors, boxed)

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
        self,
        deliveries: Sequence[Delivery],
        kept: Sequence[Kept],
        failures: Failures,
        decided: Decided,
        first: Scoring | None = None,
    ) -> Iterator[Scored | Partial | Answer | Failed | Waiting]:
        from fedsim.engine.pool import Answer, Partial, Scored, groups, longest_first

        round_, banks = _Round(deliveries, kept), [delivery.to.bank for delivery in deliveries]
        ordered = longest_first(groups(deliveries, self._actors, decided), banks, self._seconds)
        queue = deque([] if first is None else self._scoring(first))
        del first  # what was scored is let go
        number = len(queue)
        queue.extend(round_.call(group) for group in ordered)
        for result in _scored_first(self._slots.serve(queue, self._limit(failures)), number):
            if isinstance(result, Waiting | Partial):
                yield result
                continue
            call = result.call
            if call.method != "train":
                if isinstance(result, Done):
                    yield Scored(call.key, result.value)
                else:
                    queue.appendleft(_again(result))
                continue
            if isinstance(result, Done):
                self._seconds |= {banks[index]: result.seconds / len(call.banks) for index in call.banks}
                replies, keeps = result.value
                kept_now = [ref if some else None for ref, some in zip(result.others, keeps, strict=True)]
                more = [True] * (len(call.banks) - 1) + [False]
                yield from map(Answer, call.banks, replies, kept_now, more)
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

    def score(self, asked: Scoring) -> Iterator[Scored]:
        from fedsim.engine.pool import Scored

        for done in self._run(self._scoring(asked)):
            yield Scored(done.call.key, done.value)

    def _scoring(self, asked: Scoring) -> list[Call]:
        model = ray.put(asked.model)
        calls = [Call("evaluating the global adapter", "evaluate", (model, rows)) for rows in asked.chunks]
        if asked.own:
            calls += _own_calls("evaluate_own", asked.own, ray.put(asked.rows))
        return [replace(call, key=number) for number, call in enumerate(calls)]

    def own_adapters(self, jobs: Sequence[OwnJob]) -> Iterator[tuple[int, AdapterState]]:
        for done in self._run(_own_calls("own_adapter", jobs)):
            yield done.call.key, done.value

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

    def close(self) -> None:
        """End every actor. Safe to call twice."""
        self._slots.close()

    # ------------------------------------------------------------------------------------------------- calls

    def _limit(self, failures: Failures) -> Limit:
        """Seconds that an attempt may take, from what the run's attempts at the same work took so far."""

        def limit(method: str) -> float | None:
            if method != "train":
                return None
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
                queue.appendleft(_again(result))


def _again(broken: Broken) -> Call:
    """A call that no bank answers for, once more; an error where that does not help."""
    call, cause = broken.call, broken.cause
    if decide(Failures(), cause, call.attempt, 1) != "retry":
        raise cause.as_error(f"{call.what}, attempt {call.attempt}")
    return replace(call, attempt=call.attempt + 1)


def _scored_first(
    results: Iterator[Done | Broken | Waiting], number: int
) -> Iterator[Done | Broken | Waiting | Partial]:
    """The same results, those of training held back until the ``number`` calls that score were answered.

    What was added up goes on at once: it is told to nobody, and the driver is not to hold all of it.
    """
    from fedsim.engine.pool import Partial

    later: list[Done | Broken] = []
    for result in results:
        if isinstance(result, Waiting):
            yield result
        elif result.call.method != "train":
            yield result
            number -= isinstance(result, Done)
            if not number:
                yield from later
                later = []
        else:
            if isinstance(result, Done):
                replies, nodes, keeps = result.value
                result = replace(result, value=(replies, keeps))
                if nodes:
                    yield Partial(nodes)
            if number:
                later.append(result)
            else:
                yield result


def _own_calls(method: str, jobs: Sequence[OwnJob], *more: Ref) -> list[Call]:
    from fedsim.engine.actor import describe

    store = _Store()
    calls = []
    for number, job in enumerate(jobs):
        args = (job.to, store.put(job.parcel), {} if job.kept is None else job.kept, job.own, *more)
        calls.append(Call(describe([job.to]), method, args, key=number))
    return calls


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
