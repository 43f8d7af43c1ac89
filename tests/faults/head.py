"""A Ray head of a test's own, with token authentication and a dashboard, beside whatever else runs on the machine."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UP_S = 300.0


@dataclass(frozen=True)
class Head:
    """Where it is, and the environment of a command that may talk to it."""

    address: str
    environment: dict[str, str]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def of_its_own(folder: Path) -> dict[str, str]:
    """The environment of a Ray cluster whose home is ``folder``: a new token, and nothing of another cluster."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return mine | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "240",  # a busy machine
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


@contextmanager
def head(num_cpus: int = 2) -> Iterator[Head]:
    """A head that is up; it and all of its processes are ended afterwards, no other Ray of the machine is."""
    gcs, dashboard, client, agent = free_ports(4)
    folder = Path(tempfile.mkdtemp(prefix="fs-", dir="/tmp"))  # short: a socket's path may have 107 bytes
    environment, bin_ = of_its_own(folder), Path(sys.executable).parent
    options = [
        f"--port={gcs}",
        f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}",
        f"--dashboard-agent-listen-port={agent}",
        f"--temp-dir={folder / 'ray'}",
        f"--num-cpus={num_cpus}",
        "--dashboard-host=127.0.0.1",
        "--node-ip-address=127.0.0.1",
        "--object-store-memory=200000000",
        "--disable-usage-stats",
    ]
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        [str(bin_ / "ray"), "start", "--head", "--block", *options], env=environment, stdout=log, stderr=log
    )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        until = time.monotonic() + UP_S
        listing = [str(bin_ / "ray"), "job", "list", "--address", address]
        while (  # the dashboard may be up before its node, which may still fail
            "Ray runtime started" not in (folder / "log").read_text()
            or subprocess.run(listing, env=environment, capture_output=True).returncode
        ):
            if time.monotonic() > until or process.poll() is not None:
                raise RuntimeError((folder / "log").read_text())
            time.sleep(0.5)
        yield Head(address, environment)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)
