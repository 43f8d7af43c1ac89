"""Client actors as Ray actors. This is the one place where a class becomes remote, and the one that retries.

An actor is a slot that any bank can use; a free slot takes the next call, so at most one call per actor is in flight.
Ray repeats nothing by itself (``max_restarts=0``): a slot whose process dies is rebuilt here and its call repeated with
the same inputs, which gives the same bits. Parcels are put into the object store once each. What banks keep stays
there: every kept is a return value of its own, passed on by reference and never fetched by the driver.

Importing this module costs Ray and no torch, so that actors start while the driver still loads.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from fedsim.core.errors import FedsimError, QuorumError, ResourceError
from fedsim.engine.resources import Actors, cohorts

if TYPE_CHECKING:
    import numpy as np

    from fedsim.core.adapter import AdapterState, Tensors
    from fedsim.engine.actor import ClientActor
    from fedsim.engine.pool import Kept, OwnJob
    from fedsim.engine.transport import Address, Delivery, Parcel, Reply
    from fedsim.train.values import Scores

PLACEMENT_S = 120.0  # an actor that is not up by then never will be: something else holds its CPUs or its GPU
RETRIES = 2  # how often a call is repeated after the actor that served it died

Ref = Any  # ray.ObjectRef


class _Process:
    """What runs in an actor's process: a ClientActor behind calls whose arguments and results are values."""

    def __init__(self, boxed: list[Ref]) -> None:
        self._boxed = boxed  # a reference inside a list is not fetched: the process is up before torch is imported
        self._client: ClientActor | None = None

    def pid(self) -> int:
        return os.getpid()

    def load(self) -> None:
        self.client.load()

    def assign(self, boxed: list[Ref]) -> None:
        """Play the banks of another run from now on."""
        self._boxed, self._client = boxed, None
        self.load()

    @property
    def client(self) -> ClientActor:
        if self._client is None:
            make_client: Callable[[], ClientActor] = ray.get(self._boxed[0])
            self._client = make_client()
        return self._client

    def new_adapter(self, seed: int) -> AdapterState:
        return self.client.new_adapter(seed)

    def train(self, addresses: Sequence[Address], which: Sequence[int], *values: Any) -> tuple[Any, ...]:
        """(replies, kept of each bank ...). ``values`` are parcels, then each bank's kept; ``which`` is its parcel."""
        parcels, kept = values[: -len(addresses)], values[-len(addresses) :]
        jobs = [parcels[index].job(to) for to, index in zip(addresses, which, strict=True)]
        answers = self.client.train(jobs, kept)
        return [reply for reply, _ in answers], *(mine for _, mine in answers)

    def evaluate(self, model: Parcel, rows: np.ndarray) -> Scores:
        return self.client.evaluate(model, rows)

    def evaluate_own(self, to: Address, parcel: Parcel, kept: Tensors, own: np.ndarray, rows: np.ndarray) -> Scores:
        return self.client.evaluate_own(parcel.job(to), kept, own, rows)

    def own_adapter(self, to: Address, parcel: Parcel, kept: Tensors, own: np.ndarray) -> AdapterState:
        return self.client.own_adapter(parcel.job(to), kept, own)


@dataclass(frozen=True, slots=True)
class _Call:
    """One call that any slot may serve. ``what`` names it in errors."""

    what: str
    method: str
    args: tuple[Any, ...]
    num_returns: int = 1


class RayPool:
    """``num_actors`` slots. ``make_client`` is a reference to a ``Callable[[], ClientActor]`` in the object store."""

    def __init__(self, make_client: Ref, actors: Actors) -> None:
        self._boxed, self._actors = [make_client], actors
        self._slots = [self._start() for _ in range(actors.num_actors or 1)]
        self._loads = [slot.load.remote() for slot in self._slots]

    def suits(self, actors: Actors) -> bool:
        """Whether a run that asks for ``actors`` can have these: as many at least, of the same size."""
        mine = self._actors
        return (actors.cpus, actors.gpus) == (mine.cpus, mine.gpus) and (actors.num_actors or 1) <= len(self._slots)

    def assign(self, make_client: Ref, actors: Actors) -> None:
        """Let the actors play the banks of another run, which must have come to its end on them."""
        self._boxed, self._actors = [make_client], actors
        self._loads = [slot.assign.remote(self._boxed) for slot in self._slots]

    def ready(self) -> None:
        """Return when every actor is up and has loaded the base model. ResourceError when one cannot be placed."""
        self._require_placed(self._slots)
        for load in self._loads:
            try:
                ray.get(load)
            except RayTaskError as error:
                raise as_fedsim_error(error, "loading the base model") from error
            except RayError:  # a dead slot: the first call that it is given rebuilds it
                continue

    def new_adapter(self, seed: int) -> AdapterState:
        calls = [_Call("drawing the initial adapter", "new_adapter", (seed,))]
        adapter: AdapterState = next(self._run(calls))[1]
        return adapter

    def train(self, deliveries: Sequence[Delivery], kept: Sequence[Kept]) -> Iterator[tuple[int, Reply, Kept]]:
        from fedsim.engine.actor import describe

        store = _Store()
        groups = cohorts(len(deliveries), self._actors)
        calls = []
        for group in groups:
            addresses = [deliveries[index].to for index in group]
            parcels = [store.put(deliveries[index].parcel) for index in group]
            distinct = list(dict.fromkeys(parcels))
            which = [distinct.index(parcel) for parcel in parcels]
            mine = [{} if kept[index] is None else kept[index] for index in group]
            args = (addresses, which, *distinct, *mine)
            calls.append(_Call(describe(addresses), "train", args, 1 + len(addresses)))
        for number, replies, kept_refs in self._run(calls):
            yield from zip(groups[number], replies, kept_refs, strict=True)

    def evaluate(self, model: Parcel, chunks: Sequence[np.ndarray]) -> Iterator[tuple[int, Scores]]:
        ref = ray.put(model)
        calls = [_Call("evaluating the global adapter", "evaluate", (ref, rows)) for rows in chunks]
        for number, scores, _ in self._run(calls):
            yield number, scores

    def evaluate_own(self, jobs: Sequence[OwnJob], rows: np.ndarray) -> Iterator[tuple[int, Scores]]:
        yield from self._run_own("evaluate_own", jobs, ray.put(rows))

    def own_adapters(self, jobs: Sequence[OwnJob]) -> Iterator[tuple[int, AdapterState]]:
        yield from self._run_own("own_adapter", jobs)

    def _run_own(self, method: str, jobs: Sequence[OwnJob], *more: Ref) -> Iterator[tuple[int, Any]]:
        from fedsim.engine.actor import describe

        store = _Store()
        calls = []
        for job in jobs:
            args = (job.to, store.put(job.parcel), {} if job.kept is None else job.kept, job.own, *more)
            calls.append(_Call(describe([job.to]), method, args))
        for number, value, _ in self._run(calls):
            yield number, value

    def close(self) -> None:
        """End every actor. Safe to call twice."""
        while self._slots:
            kill(self._slots.pop())

    # ------------------------------------------------------------------------------------------------- calls

    def _run(self, calls: Sequence[_Call]) -> Iterator[tuple[int, Any, list[Ref]]]:
        """(number of the call, its first value, references to its other values) as calls finish."""
        waiting, deaths = deque(range(len(calls))), Counter[int]()
        idle, busy = deque(range(len(self._slots))), dict[Ref, tuple[int, int, list[Ref]]]()
        done: deque[tuple[int, Any, list[Ref]]] = deque()
        while waiting or busy or done:
            while waiting and idle:
                number, slot = waiting.popleft(), idle.popleft()
                first, *others = self._submit(calls[number], slot)
                busy[first] = (number, slot, others)
            while done:  # handed on only now, so that no slot waits for the driver
                yield done.popleft()
            if not busy:
                continue
            finished = ray.wait(list(busy), num_returns=1)[0][0]
            number, slot, others = busy.pop(finished)
            try:
                done.append((number, ray.get(finished), others))
            except RayTaskError as error:  # the actor is well, the call failed: repeating it would fail again
                raise as_fedsim_error(error, calls[number].what) from error
            except RayError as error:
                deaths[number] += 1
                if deaths[number] > RETRIES:
                    raise as_fedsim_error(error, f"{calls[number].what}, attempt {deaths[number]}") from error
                self._rebuild(slot)
                waiting.appendleft(number)
            idle.append(slot)

    def _submit(self, call: _Call, slot: int) -> list[Ref]:
        method = getattr(self._slots[slot], call.method)
        refs = method.options(num_returns=call.num_returns).remote(*call.args)
        return [refs] if call.num_returns == 1 else list(refs)

    # ------------------------------------------------------------------------------------------------- slots

    def _start(self) -> Any:
        return start(_Process, self._actors.cpus, self._actors.gpus, self._boxed)

    def _rebuild(self, slot: int) -> None:
        kill(self._slots[slot])  # it may only be unreachable
        self._slots[slot] = self._start()
        self._require_placed([self._slots[slot]])

    def _require_placed(self, slots: Sequence[Any]) -> None:
        pids = [slot.pid.remote() for slot in slots]
        _, missing = ray.wait(pids, num_returns=len(pids), timeout=PLACEMENT_S)
        if missing:
            size = f"{self._actors.gpus:g} GPU and {self._actors.cpus:g} CPU"
            raise ResourceError(
                f"{len(missing)} of {len(pids)} actors of {size} were not placed within {PLACEMENT_S:g} s: "
                "other work holds the cluster; lower resources.num_actors or wait for it to end"
            )


class _Store:
    """Puts every distinct object into the object store once."""

    def __init__(self) -> None:
        self._refs: dict[int, tuple[object, Ref]] = {}

    def put(self, value: object) -> Ref:
        if id(value) not in self._refs:
            self._refs[id(value)] = (value, ray.put(value))
        return self._refs[id(value)][1]


def start(cls: type, cpus: float, gpus: float, *args: Any) -> Any:
    """The only use of ``ray.remote``: a handle to an actor that Ray neither restarts nor repeats calls of."""
    return ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_task_retries=0)(cls).remote(*args)


def kill(handle: Any) -> None:
    """End an actor's process now. Without a Ray session there is none left, and ``ray.kill`` would start a session."""
    if ray.is_initialized():
        ray.kill(handle)


def as_fedsim_error(error: RayError, what: str) -> FedsimError:
    """What the user is told. An error raised in the actor arrives as it was raised; a death is put into words."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        return cause if isinstance(cause, FedsimError) else FedsimError(f"{what}: {type(cause).__name__}: {cause}")
    if isinstance(error, OutOfMemoryError):
        remedy = "lower resources.num_actors, resources.banks_per_actor or train.max_rows"
        return ResourceError(f"{what}: the node ran out of memory and Ray ended the actor; {remedy}")
    reason = " ".join(str(error).split())
    return QuorumError(f"{what}: {type(error).__name__}: {reason}")
