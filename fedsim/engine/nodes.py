"""What the machines of a cluster have to have in common, looked at before a run starts."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedsim.core.errors import ResourceError

LOOKING_S = 60.0  # a node that has not answered by then will not


def require_everywhere(paths: Mapping[str, str], run_dir: Path) -> None:
    """ResourceError that names the node on which a path is missing, differs in size or cannot be seen.

    ``paths`` are by the scenario's key; ``run_dir`` need not exist, but the place where it will be must be shared. To
    be called when Ray is connected, on the node that reads the scenario.
    """
    with _marked(run_dir) as mark:
        here = {**{key: _size(path) for key, path in paths.items()}, "": _size(str(mark))}
        wanted = {**paths, "": str(mark)}
        for node, sizes in _everywhere(list(wanted.values())):
            for key, path in wanted.items():
                found = sizes[path]
                if found == here[key]:
                    continue
                if not key:
                    message = f"node {node} does not see the folder {mark.parent} of this node; share it, or run on one"
                    raise ResourceError(message)
                where = f"on node {node}"
                told = f"is missing {where}" if found is None else f"has {found} bytes {where}, here it has {here[key]}"
                raise ResourceError(f"{path} {told}; give every node the same files", key)


@contextmanager
def _marked(run_dir: Path) -> Iterator[Path]:
    """A small file in the nearest folder above or at the run directory that exists."""
    folder = next(place for place in (run_dir.absolute(), *run_dir.absolute().parents) if place.is_dir())
    mark = folder / f".fedsim-seen-{secrets.token_hex(8)}"
    try:
        mark.touch()
    except OSError as error:
        raise ResourceError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def _everywhere(paths: list[str]) -> Iterator[tuple[str, dict[str, int | None]]]:
    """(address, what it sees of the paths) of each of the cluster's nodes."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look: Any = ray.remote(num_cpus=0, max_retries=0)(_sizes)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            asked[look.options(scheduling_strategy=there).remote(paths)] = node["NodeManagerAddress"]
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=LOOKING_S)
    if silent:
        raise ResourceError(f"node {asked[silent[0]]} did not answer within {LOOKING_S:g} s; is it well?")
    for ref in answered:
        try:
            sizes: dict[str, int | None] = ray.get(ref)
        except RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise ResourceError(f"node {asked[ref]} cannot run fedsim: {last}") from error
        yield asked[ref], sizes


def _sizes(paths: list[str]) -> dict[str, int | None]:
    return {path: _size(path) for path in paths}


def _size(path: str) -> int | None:
    """Bytes of a file, 0 for a folder; None where there is neither."""
    if os.path.isdir(path):
        return 0
    return os.path.getsize(path) if os.path.exists(path) else None
