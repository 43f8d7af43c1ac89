"""Memory of the frozen base with many actors on one node: ``python -m tests.benchmarks.one_base FILE [ACTORS]``.

The proportional set size (PSS) of a page is its size over the number of processes that map it, so the sum over all
processes counts every page once. Weights that are shared lie in Ray's object store, which is a mapping of its own.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil

from fedsim.build.load import load_scenario
from fedsim.build.prepare import make_job, prepare

STORE = "plasma"  # in the name of the file that backs the object store


def pss(pid: int) -> dict[str, float]:
    """MB of a process: in the object store, and in all."""
    found = {"store": 0.0, "all": 0.0}
    in_store = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        key, *values = line.split()
        if not key.endswith(":"):
            in_store = STORE in line
        elif key == "Pss:":
            found["all"] += int(values[0]) / 1024
            found["store"] += in_store * int(values[0]) / 1024
    return found


def main() -> None:
    import ray

    from fedsim.engine.cluster import Cluster
    from fedsim.engine.ray_pool import RayPool

    scenario = load_scenario(Path(sys.argv[1]))
    number = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    material = prepare(scenario)
    job = make_job(scenario, material, "")
    actors = replace(job.actors, num_actors=number, cpus=(os.cpu_count() or 1) / number)
    whole = sum(map(len, job.make_client.make_trainer().weights())) / 2**20
    with Cluster(actors) as cluster:
        placed = cluster.wait(actors, number)
        with closing(RayPool(ray.put(job.make_client), placed)) as pool:
            list(pool.ready())
            children = psutil.Process().children(recursive=True)
            clients = [child for child in children if "ClientProcess" in " ".join(child.cmdline())]
            shares = [pss(child.pid) for child in clients]
            store = sum(pss(child.pid)["store"] for child in children)
    line = {
        "actors": len(shares),
        "weights_mb": round(whole, 1),
        "store_pss_mb": round(store, 1),
        "copies": round(store / whole, 2),
        "actor_pss_mb": [round(share["all"]) for share in shares],
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
