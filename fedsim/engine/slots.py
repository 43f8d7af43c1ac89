"""Slots: each is a Ray actor that serves one call at a time and is replaced when it dies, hangs or cannot be reached.

    starting -> idle -> busy -> idle             the call was answered, or failed without harm to the process
                        busy -> suspect -> dead  it ran late, cannot be reached or must not be used again: it is told
                                                 to end, and whatever it still answers is not counted
                        busy -> dead             it died
                                dead -> starting a new process takes its place

Ray repeats nothing by itself (``max_restarts=0``), and nothing waits for a slot that is not coming: a call that fails
is handed back as ``Broken`` to whoever asked, who may put it into the queue again. Time is monotonic.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import psutil
import ray
from ray.exceptions import RayError, RayTaskError

from fedsim.core.errors import ResourceError
from fedsim.core.events import Waiting
from fedsim.engine.calls import Broken, Call, Done, Limit, Ref
from fedsim.engine.classify import classify
from fedsim.engine.failures import Cause
from fedsim.engine.handles import kill
from fedsim.engine.resources import Actors

PLACEMENT_S = 120.0  # without any slot for so long, there never will be one: something else holds the CPUs or the GPU
TELL_S = 10.0  # between two lines about waiting
END_S = 5.0  # a process that was told to end and has not is killed by its id
TICK_S = 0.1  # how often an ending process is looked at


class State(Enum):
    STARTING = auto()
    IDLE = auto()
    BUSY = auto()
    SUSPECT = auto()
    DEAD = auto()


@dataclass(slots=True)
class _Slot:
    state: State
    handle: Any
    wanted: Ref  # what it is waited for: where it runs, that it has loaded, later a call's first result
    loading: Ref  # asked for together with where it runs, so that the base loads while the driver still imports
    since: float  # when it came into this state
    place: tuple[str, int] | None = None  # node and process id; None until it runs
    has_loaded: bool = False
    process: psutil.Process | None = None  # on this node
    call: Call | None = None
    others: list[Ref] = field(default_factory=list)


class Slots:
    """``actors.num_actors`` slots. ``start`` makes an actor; see ``engine.process`` for what it is asked.

    ``boxed`` is what an actor needs to load its base.
    """

    def __init__(self, start: Callable[[], Any], actors: Actors, boxed: list[Ref]) -> None:
        self._start, self._actors, self._boxed = start, actors, boxed
        self._slots = [self._new() for _ in range(actors.num_actors or 1)]
        self._weights: dict[str, Ref] = {}  # by node: of the base that its actors share
        self._deaths_loading, self._told_s = 0, 0.0
        self._lost_since: float | None = None  # calls of processes that load; None: none since one has loaded
        self._window = len(self._slots)  # calls in flight; less once the object store's disk was full
        self.took: dict[str, list[float]] = {}  # by method: seconds of each attempt that was answered

    def __len__(self) -> int:
        return len(self._slots)

    def assign(self, boxed: list[Ref]) -> None:
        """Have every actor load what another run needs; one that is not at rest is replaced."""
        self.took, self._weights, self._boxed = {}, {}, boxed
        self._window = len(self._slots)
        for slot in self._slots:
            if slot.state is State.IDLE:
                slot.state, slot.wanted, slot.since = State.STARTING, slot.handle.load.remote(boxed), time.monotonic()
                slot.has_loaded = False
            else:
                self._end(slot)

    def ready(self) -> Iterator[Waiting]:
        """Ends when every slot has loaded. ResourceError when one is not placed in time."""
        while len(self._in(State.IDLE)) < len(self._slots):
            self._look(1.0)
            yield from self._tell(least=len(self._slots))

    def serve(self, queue: deque[Call], limit: Limit) -> Iterator[Done | Broken | Waiting]:
        """What becomes of the calls, until the queue is empty and nothing is in flight. It may be filled meanwhile.

        A caller that wants no more leaves slots behind whose work nobody waits for: these are replaced.
        """
        results: deque[Done | Broken] = deque()
        try:
            while queue or results or self._in(State.BUSY):
                self._dispatch(queue)
                while results:  # handed on only now, so that no slot waits for the caller
                    yield results.popleft()
                if not queue and not self._in(State.BUSY):
                    continue
                results.extend(self._look(self._patience(limit)))
                results.extend(self._late(limit))
                yield from self._tell(least=1)
        finally:
            for slot in self._in(State.BUSY):
                self._end(slot)

    def close(self) -> None:
        """End every actor. Safe to call twice."""
        while self._slots:
            kill(self._slots.pop().handle)

    # ------------------------------------------------------------------------------------------- states and changes

    def _in(self, *states: State) -> list[_Slot]:
        return [slot for slot in self._slots if slot.state in states]

    def _new(self) -> _Slot:
        handle = self._start()
        return _Slot(State.STARTING, handle, handle.where.remote(), handle.load.remote(self._boxed), time.monotonic())

    def _dispatch(self, queue: deque[Call]) -> None:
        for slot in self._in(State.IDLE)[: self._window - len(self._in(State.BUSY))]:
            if not queue:
                return
            call = queue.popleft()
            refs = getattr(slot.handle, call.method).options(num_returns=call.num_returns).remote(*call.args)
            slot.wanted, *slot.others = [refs] if call.num_returns == 1 else refs
            slot.state, slot.call, slot.since = State.BUSY, call, time.monotonic()

    def _look(self, timeout: float) -> list[Done | Broken]:
        """Wait until a slot answers; move every slot that has."""
        for slot in self._in(State.SUSPECT):
            if _gone(slot):
                slot.state = State.DEAD
        for slot in self._in(State.DEAD):
            self._slots[self._slots.index(slot)] = self._new()
        waited_for = {slot.wanted: slot for slot in self._in(State.STARTING, State.BUSY)}
        ready, _ = ray.wait(list(waited_for), num_returns=1, timeout=timeout) if waited_for else ([], [])
        if ready:  # whoever asks may have been away: what was answered meanwhile is not late
            ready, _ = ray.wait(list(waited_for), num_returns=len(waited_for), timeout=0)
        if not waited_for:
            time.sleep(min(timeout, TICK_S))
        results: list[Done | Broken] = []
        for ref in ready:
            slot = waited_for[ref]
            if slot.state is State.BUSY:
                results.append(self._answered(slot))
            else:
                self._started(slot)
        return results

    def _answered(self, slot: _Slot) -> Done | Broken:
        call = slot.call
        assert call is not None
        try:
            value = ray.get(slot.wanted)
        except RayError as error:
            return self._failed(slot, classify(error, call.what), alive=isinstance(error, RayTaskError))
        seconds = time.monotonic() - slot.since
        self.took.setdefault(call.method, []).append(seconds)
        slot.state = State.IDLE
        if slot.others:  # a copy on this node, in time for the loss of the other; nothing is read or waited for
            ray.wait(slot.others, num_returns=len(slot.others), timeout=0)
        return Done(call, value, slot.others, seconds)

    def _failed(self, slot: _Slot, cause: Cause, alive: bool) -> Broken:
        call = slot.call
        assert call is not None
        if cause.name == "disk_full":
            cause = self._fewer(cause)
        if alive and not cause.spoils_process:
            slot.state, slot.since = State.IDLE, time.monotonic()
        else:
            self._end(slot)
        return Broken(call, cause)

    def _fewer(self, cause: Cause) -> Cause:
        """Half as many calls in flight, once; if that does not help, nothing does."""
        if self._window < len(self._slots) or self._window == 1:
            return Cause(cause.name, cause.message, ends_run=True, detail=cause.detail)
        self._window = max(1, self._window // 2)
        return cause

    def _late(self, limit: Limit) -> Iterator[Broken]:
        for slot in self._in(State.BUSY):
            assert slot.call is not None
            allowed, taken = limit(slot.call.method), time.monotonic() - slot.since
            if allowed is not None and taken > allowed:
                yield self._failed(slot, Cause("late", f"no answer within {allowed:.3g} s"), alive=False)

    def _patience(self, limit: Limit) -> float:
        """Seconds until something must be looked at though no slot has answered."""
        now, patience = time.monotonic(), TELL_S
        for slot in self._in(State.BUSY):
            assert slot.call is not None
            allowed = limit(slot.call.method)
            if allowed is not None:
                patience = min(patience, slot.since + allowed - now)
        if self._in(State.SUSPECT):
            patience = min(patience, TICK_S)
        return max(0.01, patience)

    def _started(self, slot: _Slot) -> None:
        """It runs, or it has loaded the base model, or neither."""
        try:
            value = ray.get(slot.wanted)
        except RayError as error:
            if slot.place is not None:
                self._weights.pop(slot.place[0], None)  # it may be this slot's share that failed
            cause = classify(error, "loading the base model")
            if not cause.passing or self._hopeless(cause):
                raise cause.as_error("loading the base model") from error
            self._end(slot)
            return
        if slot.place is None:
            slot.place, slot.process, slot.wanted = value, _process(*value), slot.loading
        elif not slot.has_loaded and len(self._slots) > 1 and not self._actors.gpus:
            slot.wanted = slot.handle.adopt.remote(self._weights_on(slot.place[0], slot))
            slot.has_loaded = True
        else:
            slot.state, self._deaths_loading, self._lost_since = State.IDLE, 0, None
        slot.since = time.monotonic()

    def _hopeless(self, cause: Cause) -> bool:
        """Whether too many processes have ended while they loaded, or for too long none could be spoken to."""
        if cause.name == "unreachable":
            self._lost_since = self._lost_since or time.monotonic()
            return time.monotonic() - self._lost_since > PLACEMENT_S
        self._deaths_loading += 1
        return self._deaths_loading > 2 * len(self._slots)

    def _weights_on(self, node: str, slot: _Slot) -> Ref:
        """The base that actors of a node share: that of the first which has loaded it."""
        return self._weights.get(node) or self._weights.setdefault(node, slot.handle.weights.remote())

    def _end(self, slot: _Slot) -> None:
        kill(slot.handle)  # it may only be unreachable
        slot.state, slot.since, slot.call = State.SUSPECT, time.monotonic(), None

    def _tell(self, least: int) -> Iterator[Waiting]:
        """A line now and then while fewer than ``least`` slots have a place. ResourceError when it takes too long."""
        homeless = [slot for slot in self._in(State.STARTING) if slot.place is None]
        placed = len(self._slots) - len(homeless) - len(self._in(State.SUSPECT, State.DEAD))
        if placed >= least or not homeless:
            self._told_s = 0.0
            return
        waited = time.monotonic() - max(slot.since for slot in homeless)
        if waited > PLACEMENT_S:
            raise ResourceError(
                f"{len(homeless)} of {len(self._slots)} actors were not placed within {PLACEMENT_S:g} s: "
                f"{self._arithmetic(len(homeless))}; lower resources.num_actors or wait for other work to end"
            )
        if waited - self._told_s >= TELL_S:
            self._told_s = waited
            yield Waiting(waited, f"waiting for room: {self._arithmetic(len(homeless))}")

    def _arithmetic(self, homeless: int) -> str:
        cpus, gpus = self._actors.cpus, self._actors.gpus
        have, free = ray.cluster_resources(), ray.available_resources()
        nodes = sum(1 for node in ray.nodes() if node["Alive"])
        return (
            f"need {homeless} x ({cpus:g} CPU, {gpus:g} GPU); the cluster's {nodes} nodes have {have.get('CPU', 0):g} "
            f"CPU and {have.get('GPU', 0):g} GPU, of which {free.get('CPU', 0):g} and {free.get('GPU', 0):g} are free"
        )


def _gone(slot: _Slot) -> bool:
    """Whether a process that was told to end has, as far as that can be seen from here; it is helped if it is slow.

    One on another node is taken to be gone: what it still answers is not counted, and its own lease ends it.
    """
    if slot.process is None or not slot.process.is_running() or slot.process.status() == psutil.STATUS_ZOMBIE:
        return True
    waited = time.monotonic() - slot.since
    if waited > END_S:
        slot.process.kill()
    return waited > 2 * END_S


def _process(node: str, pid: int) -> psutil.Process | None:
    """A handle that is not fooled by a process id that is used again; None on another node."""
    if node != ray.get_runtime_context().get_node_id():
        return None
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None
