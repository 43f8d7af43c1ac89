"""What Ray's exceptions mean for a bank's work. Everything is a RayError, and few of them are a RayActorError."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ActorUnschedulableError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)

from fedsim.core.errors import FedsimError
from fedsim.engine.failures import Cause, Name, of_error

NODE_GONE = ("its node has died", "node was terminated", "missing too many heartbeats", "NODE_DIED")

NAMES: tuple[tuple[type[RayError], Name], ...] = (  # a subclass before its base
    (ActorUnavailableError, "unreachable"),
    (ActorDiedError, "died"),
    (WorkerCrashedError, "died"),
    (NodeDiedError, "node_lost"),
    (OutOfMemoryError, "out_of_memory"),
    (OutOfDiskError, "disk_full"),
    (ObjectStoreFullError, "disk_full"),
    (ObjectLostError, "object_lost"),
)
ENDS_RUN = (LocalRayletDiedError, ActorUnschedulableError, RuntimeEnvSetupError)


def classify(error: RayError, what: str) -> Cause:
    """The cause of a failed call that was to do ``what``."""
    if isinstance(error, RayTaskError):
        return _raised(error, what)
    name: Name = next((name for kind, name in NAMES if isinstance(error, kind)), "ray")
    told = " ".join(str(error).split())
    if name == "died" and any(sign in told for sign in NODE_GONE):
        name = "node_lost"
    message = SHORT[name](told) if name in SHORT else f"{type(error).__name__}: {told}"
    return Cause(name, message, ends_run=isinstance(error, ENDS_RUN), detail=str(error))


def _death(told: str) -> str:
    """``process 4711 on 10.0.0.2 ended unexpectedly``; Ray's own text is a paragraph of guesses."""
    pid, ip = re.search(r"\bpid: (\d+)", told), re.search(r"\bip: (\S+)", told)
    return f"process{f' {pid[1]}' if pid else ''}{f' on {ip[1]}' if ip else ''} ended unexpectedly"


def _memory(told: str) -> str:
    """``Ray ended the process at 8.00GB used / 23.54GB limit``; Ray adds a page of statistics."""
    used = re.search(r"\S+ used / \S+ limit", told)
    return f"Ray ended the process at {used[0]} of its node" if used else "the node ran out of memory"


SHORT: Mapping[Name, Callable[[str], str]] = {"died": _death, "out_of_memory": _memory}


def _raised(error: RayTaskError, what: str) -> Cause:
    """The call ended with an exception: the bank's work's own, or one that Ray met on its behalf."""
    cause = error.cause
    if isinstance(cause, FedsimError):
        return of_error(cause, what)
    if isinstance(cause, RayError) and not isinstance(cause, RayTaskError):
        return classify(cause, what)
    told = FedsimError(f"{what}: {type(cause).__name__}: {' '.join(str(cause).split())}")
    told.add_note(str(error))
    return of_error(told, what)
