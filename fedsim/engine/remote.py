"""The driver as an actor: the process that the user started only shows and writes what happens.

The driver actor creates the client actors and so owns them: when it ends, for whatever reason, they end.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError, RayTaskError

from fedsim.core.errors import FedsimError
from fedsim.engine.classify import classify
from fedsim.engine.ray_pool import RayPool
from fedsim.engine.resources import Actors
from fedsim.engine.slots import kill, start

if TYPE_CHECKING:
    from fedsim.core.events import Event
    from fedsim.engine.actor import ClientActor
    from fedsim.engine.plan import Plan


class _DriverProcess:
    """Runs one plan after the other. Its client actors stay for the next one that they suit."""

    def __init__(self) -> None:
        self._pool: RayPool | None = None

    def run(self, boxed: list[Any], actors: Actors) -> Iterator[Event]:
        make_client, plan = boxed
        pool = self._staff(make_client, actors)  # new ones start while this process imports torch
        import torch

        from fedsim.engine.driver import Driver

        torch.set_num_threads(
            actors.threads
        )  # Ray's default follows the CPUs that an actor reserves: none for this one
        yield from Driver(ray.get(plan), pool).run()

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
        """The events of a run. Closing the iterator early ends the driver and its actors."""
        if self._handle is None:
            self._handle = start(_DriverProcess, 0, 0, here=True)  # it writes the run directory
        boxed = [ray.put(make_client), ray.put(plan)]  # references in a list are not fetched before the actor asks
        ended = False
        try:
            for event in self._handle.run.options(num_returns="streaming").remote(boxed, actors):
                yield ray.get(event)
            ended = True
        except RayTaskError as error:
            raise classify(error, "the driver").as_error("the driver") from error
        except RayError as error:
            raise FedsimError(f"the driver process died: {' '.join(str(error).split())}") from error
        finally:
            if not ended:
                self.close()

    def close(self) -> None:
        """End the driver and, as it owns them, its client actors. Safe to call twice."""
        if self._handle is not None:
            kill(self._handle)
            self._handle = None
