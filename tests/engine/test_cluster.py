"""A Ray session leaves nothing behind, and what cannot be placed is refused before one exists."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fedsim.core.errors import ResourceError
from fedsim.engine import cluster as module
from fedsim.engine.cluster import Cluster
from fedsim.engine.resources import Actors, Node
from tests.engine import fakes

ROOT = Path(__file__).resolve().parents[2]
ACTORS = Actors(num_actors=1, cpus=0.25)

HANGING_RUN = """
import signal
import sys
from pathlib import Path
from fedsim.engine.cluster import Cluster
from fedsim.engine.remote import RemoteDriver
from tests.engine import fakes
from tests.engine.test_cluster import ACTORS

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
plan, faults = fakes.plan(), Path(sys.argv[1])
try:
    with Cluster(ACTORS) as cluster:
        for event in RemoteDriver().events(plan, fakes.make_client(plan, faults), cluster.wait(ACTORS, cohort=3)):
            pass
except KeyboardInterrupt:
    sys.exit(130)
"""

JOINING = """
from fedsim.engine.cluster import Cluster
from tests.engine.test_cluster import ACTORS

with Cluster(ACTORS) as cluster:
    print(cluster.wait(ACTORS, cohort=3).num_actors)
"""


@pytest.fixture
def no_session(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has not started Ray, whatever ran before, and in which starting Ray is an error."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ray", raising=False)

    def refuse(_: Node) -> None:
        raise AssertionError("Ray was about to be started")

    monkeypatch.setattr(module, "_private_session", refuse)
    return


def test_starting_actors_costs_no_torch() -> None:
    """So that client processes start while the driver's process still loads."""
    code = "import sys, fedsim.engine.cluster, fedsim.engine.remote; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.usefixtures("no_session")
def test_infeasible_resources_are_refused_before_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "this_machine", lambda count_gpus: Node(cpus=2, gpus=float(count_gpus)))
    with pytest.raises(ResourceError, match=r"need 4 x 0\.5 GPU = 2, cluster has 1;"):
        Cluster(Actors(num_actors=4, gpus=0.5, cpus=0.1))


@pytest.mark.usefixtures("no_session")
def test_ray_client_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(ResourceError, match="'ray://head:10001': Ray Client is not supported; use `ray job submit`"):
        Cluster(ACTORS)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_session_of_the_program_is_joined_and_left_running() -> None:
    import ray

    with Cluster(ACTORS) as cluster:
        assert cluster.wait(ACTORS, cohort=3) == ACTORS
        with pytest.raises(ResourceError, match=r"need 9 x 100 CPU = 900, cluster has \d+; lower"):
            cluster.wait(Actors(num_actors=9, cpus=100), cohort=9)
    assert ray.is_initialized()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_ray_address_is_joined() -> None:
    """As inside `ray job submit`."""
    import ray

    address = ray.get_runtime_context().gcs_address
    found = subprocess.run(
        [sys.executable, "-c", JOINING], env={**os.environ, "RAY_ADDRESS": address}, cwd=ROOT, capture_output=True
    )
    assert (found.returncode, found.stdout.strip()) == (0, b"1"), found.stderr
    assert ray.is_initialized()


@pytest.mark.ray
def test_ctrl_c_leaves_no_process_and_no_file_behind(tmp_path: Path) -> None:
    faults, home = tmp_path / "faults", tmp_path / "home"
    faults.mkdir()
    home.mkdir()
    for bank in fakes.BANKS:
        fakes.plant(faults, 0, bank, "hang")
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {"HOME": str(home)}
    command = [sys.executable, "-c", HANGING_RUN, str(faults)]
    with subprocess.Popen(command, env=env, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE) as run:
        fakes.wait_until((faults / "pid").exists, timeout_s=60)
        family = psutil.Process(run.pid).children(recursive=True)
        folders = {
            path for process in family for path in re.findall(r"/\S*?/fedsim-[\w-]+", " ".join(process.cmdline()))
        }
        assert int((faults / "pid").read_text()) in {process.pid for process in family}
        os.killpg(run.pid, signal.SIGINT)
        try:
            _, errors = run.communicate(timeout=60)
        finally:
            run.kill()
    assert (run.returncode, errors) == (130, b"")
    fakes.wait_until(lambda: not any(process.is_running() for process in family))
    assert not list(home.iterdir())
    assert len(folders) == 1
    assert not any(Path(folder).exists() for folder in folders)


def test_other_threads_run_while_ray_s_start_waits_for_its_head(tmp_path: Path) -> None:
    """Ray's own wait lets nobody run, so that a signal was handled 30 s late where the head had been ended with us."""
    from ray._private import node

    module._wait_politely()
    ended = list[BaseException]()

    def wait() -> None:
        try:
            node.wait_for_persisted_port(str(tmp_path), "ab" * 28, "gcs_server_port", timeout_ms=500)
        except RuntimeError as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    ticks = 0
    while thread.is_alive():
        time.sleep(0.01)
        ticks += 1
    assert "Timed out waiting for file" in str(ended[0])
    assert ticks >= 10
