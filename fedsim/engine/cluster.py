"""A Ray session: a private one on this machine, or a connection to a running cluster.

Inside ``ray job submit``, or with RAY_ADDRESS set, or when the program has called ``ray.init`` itself, fedsim joins
that cluster and changes nothing about it. Otherwise it starts Ray here for this process alone: in a directory of its
own that only this user can enter (so no other ``ray.init()`` finds it, and spilled adapters stay private), with a
random access token that is written nowhere, without dashboard, and without usage statistics sent anywhere. Signals stay
this program's own: Ray's core would answer SIGTERM with a stack trace.

Starting takes some seconds, mostly spent waiting, so it happens in a thread. The thread lives as long as the session:
Linux ends Ray's processes with the thread that started them.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from fedsim.core.errors import ResourceError
from fedsim.engine.leftovers import make_folder, mark
from fedsim.engine.resources import Actors, Node, place, this_machine

LOCAL = "local"  # Ray's name for a session of one's own


class Cluster:
    """``with Cluster(actors) as cluster: placed = cluster.wait(actors, cohort)``.

    ResourceError when ``actors`` cannot be placed: for a private session before any process starts. ``address``
    overrides RAY_ADDRESS.
    """

    def __init__(self, actors: Actors, address: str | None = None) -> None:
        here = check_room(actors, address)
        self._address = address or os.environ.get("RAY_ADDRESS") or LOCAL
        self._error: Exception | None = None
        self._up, self._down = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._live, name="fedsim-ray", daemon=True)
        self._joined = _has_session()
        self._private = here is not None
        if here is not None:
            self._options = _private_session(here)
        else:
            self._options = {"address": self._address, "log_to_driver": False, "logging_level": logging.CRITICAL}
        os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")  # read when Ray is imported
        self._thread.start()

    @property
    def is_private(self) -> bool:
        """Whether the session was started here and ends here."""
        return self._private

    def wait(self, actors: Actors, cohort: int) -> Actors:
        """The actors as the cluster can hold them, once it is up. May be asked again for another run.

        ``cohort`` is the number of banks in one round.
        """
        self._up.wait()
        if self._error is not None:
            raise ResourceError(f"Ray did not start or cannot be reached at {self._address!r}: {self._error}")
        import ray

        try:
            alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        except ray.exceptions.RayError as error:
            raise ResourceError(f"Ray at {self._address!r} does not answer: {' '.join(str(error).split())}") from error
        nodes = [Node(found.get("CPU", 0.0), found.get("GPU", 0.0)) for found in alive]
        return place(actors, cohort, nodes)

    def close(self) -> None:
        """End a session that was started here, with every process of it. Safe to call twice."""
        self._down.set()
        self._thread.join()

    def _live(self) -> None:
        folder = None
        try:
            import ray

            if self._joined:
                return
            logging.getLogger("ray").setLevel(logging.CRITICAL)
            if self._private:
                folder = make_folder()  # Ray makes its directories world-writable; this one is not
                self._options["_temp_dir"] = os.path.join(folder, "ray")
                _wait_politely()
            ray.init(**self._options)
        except Exception as error:  # whatever it is, it belongs to the thread that waits
            self._error = error
        finally:
            self._up.set()
        self._down.wait()
        if "ray" in sys.modules:  # else it could not be imported
            ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def check_room(actors: Actors, address: str | None = None) -> Node | None:
    """This machine, where a session would be started on it; None where a running cluster would be joined.

    ResourceError when the actors do not fit, before anything is started, or when the address is of no use.
    """
    address = address or os.environ.get("RAY_ADDRESS") or LOCAL
    if "://" in address:
        raise ResourceError(
            f"cannot join {address!r}: Ray Client is not supported; "
            "use `ray job submit`, or run on a node of the cluster"
        )
    if address != LOCAL or _has_session():
        return None
    here = this_machine(count_gpus=actors.gpus > 0)
    place(actors, 1, [here])
    return here


def _has_session() -> bool:
    """Whether this program has called ``ray.init`` itself."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def _wait_politely() -> None:
    """Have Ray's start let go of Python's lock while it waits for its head process.

    Ray waits in C++, up to 30 s, where that process was ended by the same SIGTERM as this one (``timeout`` sends it to
    the whole group); meanwhile nobody here could handle the signal.
    """
    from ray import _raylet
    from ray._private import node

    port = "wait_for_persisted_port"
    if not hasattr(_raylet, port) or getattr(node, port, None) is not getattr(_raylet, port):
        return  # another Ray, or done before
    read: Callable[..., int] = getattr(_raylet, port)

    def wait(folder: str, node_id: str, name: str, timeout_ms: int = 30_000, poll_interval_ms: int = 100) -> int:
        end = time.monotonic() + timeout_ms / 1000
        while True:
            try:
                return read(folder, node_id, name, timeout_ms=0)
            except RuntimeError:  # the file is not there
                if time.monotonic() >= end:
                    raise
            time.sleep(poll_interval_ms / 1000)

    node.wait_for_persisted_port = wait


def _private_session(here: Node) -> dict[str, Any]:
    """Arguments of ``ray.init`` for a session of this process, without its folder; sets what its processes inherit."""
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray writes one to the home directory
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    mark(os.environ)  # so that `fedsim doctor` knows whose they are, should this process be killed
    return {
        "address": LOCAL,
        "num_cpus": int(here.cpus),
        "num_gpus": int(here.gpus),
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": logging.CRITICAL,
    }
