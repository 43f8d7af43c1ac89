"""The driver as an actor: the process that the user started only shows and writes what happens.

The driver actor creates the client actors and so owns them: when it ends, for whatever reason, they end.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from fedsim.core.errors import FedsimError
from fedsim.core.events import BankDone, Failed, RoundRow
from fedsim.engine.classify import classify
from fedsim.engine.handles import kill, start
from fedsim.engine.ray_pool import RayPool
from fedsim.engine.resources import Actors
from fedsim.records.lock import acquire

if TYPE_CHECKING:
    from fedsim.core.events import Event
    from fedsim.engine.actor import ClientActor
    from fedsim.engine.plan import Plan


class _DriverProcess:
    """Runs one plan after the other. Its client actors stay for the next one that they suit."""

    def __init__(self) -> None:
        self._pool: RayPool | None = None

    def run(self, boxed: list[Any], actors: Actors) -> Iterator[list[Event]]:
        """The events in lists, those of banks that trained together in one: each list travels as an object of Ray's."""
        make_client, plan = boxed
        pool = self._staff(make_client, actors)  # new ones start and load while this process imports torch
        import torch

        from fedsim.engine.driver import Driver

        torch.set_num_threads(
            actors.threads
        )  # Ray's default follows the CPUs that an actor reserves: none for this one
        together: list[Event] = []
        for event in Driver(ray.get(plan), pool).run():
            together.append(event)
            if not (isinstance(event, BankDone) and event.more):
                yield together
                together = []

    def _staff(self, make_client: Any, actors: Actors) -> RayPool:
        if self._pool is not None and self._pool.suits(actors):
            self._pool.assign(make_client, actors)
            return self._pool
        if self._pool is not None:
            self._pool.close()
        self._pool = RayPool(make_client, actors)
        return self._pool


class RemoteDriver:
    """The driver actor, on the connected Ray cluster. It starts with the first run and ends with a run that fails."""

    def __init__(self) -> None:
        self._handle: Any = None

    def events(
        self, plan: Plan, make_client: Callable[[], ClientActor], actors: Actors
    ) -> Generator[Event, None, None]:
        """The events of a run. Closing the iterator early ends the driver and its actors.

        When the driver's process dies, another goes on from the last commit, once: it begins with Started again.
        """
        told = _Told()
        try:
            yield from told.news(self._life(plan, make_client, actors))
        except ActorDiedError:
            if plan.store is not None:  # whatever the dead one had still to write is refused from now on
                fence = acquire(plan.store.folder, steal=True)
                plan = replace(plan, store=replace(plan.store, fence=fence))
        else:
            return
        try:
            yield from told.news(self._life(plan, make_client, actors))
        except ActorDiedError as error:
            raise FedsimError(f"the driver process died twice: {' '.join(str(error).split())}") from error

    def _life(self, plan: Plan, make_client: Callable[[], ClientActor], actors: Actors) -> Iterator[Event]:
        """The events of one driver. ActorDiedError when its process dies."""
        if self._handle is None:
            self._handle = start(_DriverProcess, 0, 0, here=True)  # it writes the run directory
        boxed = [ray.put(make_client), ray.put(plan)]  # references in a list are not fetched before the actor asks
        ended = False
        try:
            for events in self._handle.run.options(num_returns="streaming").remote(boxed, actors):
                yield from ray.get(events)
            ended = True
        except ActorDiedError:
            raise
        except RayTaskError as error:
            raise classify(error, "the driver").as_error("the driver") from error
        except RayError as error:
            raise FedsimError(f"the driver process cannot be reached: {' '.join(str(error).split())}") from error
        finally:
            if not ended:
                self.close()

    def close(self) -> None:
        """End the driver and, as it owns them, its client actors. Safe to call twice."""
        if self._handle is not None:
            kill(self._handle)
            self._handle = None


class _Told:
    """What a run has told so far: a second driver begins with the first one's rounds and failures."""

    def __init__(self) -> None:
        self._round, self._failed = -1, set[Failed]()

    def news(self, events: Iterator[Event]) -> Iterator[Event]:
        for event in events:
            if isinstance(event, RoundRow):
                if event.round <= self._round:
                    continue
                self._round = event.round
            elif isinstance(event, Failed):
                if event in self._failed:
                    continue
                self._failed.add(event)
            yield event
