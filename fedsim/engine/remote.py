"""The driver as an actor: the process that the user started only shows and writes what happens.

The driver actor creates the client actors and so owns them: when it ends, for whatever reason, they end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError, RayTaskError

from fedsim.core.errors import FedsimError
from fedsim.engine.ray_pool import RayPool, as_fedsim_error, kill, start
from fedsim.engine.resources import Actors

if TYPE_CHECKING:
    from fedsim.core.events import Event
    from fedsim.engine.actor import ClientActor
    from fedsim.engine.plan import Plan


class _DriverProcess:
    def __init__(self, boxed: list[Any], actors: Actors) -> None:
        make_client, self._plan = boxed
        self._threads = actors.threads
        self._pool = RayPool(make_client, actors)  # they start while this process imports torch

    def run(self) -> Iterator[Event]:
        import torch

        from fedsim.engine.driver import Driver

        torch.set_num_threads(self._threads)  # Ray's default follows the CPUs that an actor reserves: none for this one
        try:
            yield from Driver(ray.get(self._plan), self._pool).run()
        finally:
            self._pool.close()


def run_on_ray(plan: Plan, make_client: Callable[[], ClientActor], actors: Actors) -> Iterator[Event]:
    """The events of a run on the connected Ray cluster. Closing the iterator ends the driver and its actors."""
    driver = start(_DriverProcess, 0, 0, [ray.put(make_client), ray.put(plan)], actors)
    try:
        for event in driver.run.options(num_returns="streaming").remote():
            yield ray.get(event)
    except RayTaskError as error:
        raise as_fedsim_error(error, "the driver") from error
    except RayError as error:
        raise FedsimError(f"the driver process died: {' '.join(str(error).split())}") from error
    finally:
        kill(driver)
