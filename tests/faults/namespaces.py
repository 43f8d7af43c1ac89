"""A cluster whose nodes have addresses of their own: each raylet in a network namespace, all on one switch.

A node can be cut off as by a pulled cable: nothing is refused, packets are lost. The switch is a bridge in a namespace
too, so that the network of the machine is not touched. Needs root and the command ``ip``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.head import of_its_own

ROOT = Path(__file__).resolve().parents[2]
HEAD, PORT = "10.77.0.1", 6379
UP_S = 300.0


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def available() -> bool:
    """Whether this process may make namespaces."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    name = f"fs{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    if made:
        ip("netns", "del", name)
    return made


@dataclass(frozen=True)
class Machines:
    """Node 0 is the head, without CPUs for actors."""

    prefix: str
    environment: dict[str, str]
    started: list[subprocess.Popen[bytes]]

    def namespace(self, node: int | str) -> str:
        return f"{self.prefix}-{node}"

    def start(self, node: int, *command: str, log: Path) -> subprocess.Popen[bytes]:
        """A command on one of the machines."""
        where = ["ip", "netns", "exec", self.namespace(node)]
        with log.open("ab") as out:
            process = subprocess.Popen([*where, *command], env=self.environment, stdout=out, stderr=out)
        self.started.append(process)
        return process

    def cut(self, node: int) -> None:
        """Pull the node's cable."""
        ip("-n", self.namespace("sw"), "link", "set", f"port{node}", "down")

    def pids(self) -> list[int]:
        """Every process on every machine."""
        found = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
        mine = [line.split()[0] for line in found.splitlines() if line.startswith(self.prefix)]
        told = [subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout for name in mine]
        return [int(pid) for text in told for pid in text.split()]


@contextmanager
def machines(workers: int) -> Iterator[Machines]:
    """A head and this many nodes of one CPU each, up and joined."""
    folder = Path(tempfile.mkdtemp(prefix="fs-", dir="/tmp"))  # short: a socket's path may have 107 bytes
    environment = of_its_own(folder) | {"RAY_ADDRESS": f"{HEAD}:{PORT}"}
    one = Machines(f"fs{secrets.token_hex(3)}", environment, [])
    try:
        _wire(one, workers + 1)
        joining = ["--node-ip-address={}", "--block", "--disable-usage-stats", "--object-store-memory=100000000"]
        head = ["ray", "start", "--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false"]
        head += [f"--temp-dir={folder / 'ray'}", *(option.format(HEAD) for option in joining)]
        one.start(0, *head, log=folder / "head")
        _until(one, folder, 1)
        for node in range(1, workers + 1):
            address = f"10.77.0.{node + 1}"
            worker = ["ray", "start", f"--address={HEAD}:{PORT}", "--num-cpus=1"]
            one.start(node, *worker, *(option.format(address) for option in joining), log=folder / f"node{node}")
            _until(one, folder, node + 1)  # two at once would choose the same names in the folder that they share
        yield one
    finally:
        for pid in one.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in one.started:
            process.wait(30)
        for node in ("sw", *range(workers + 1)):
            subprocess.run(["ip", "netns", "del", one.namespace(node)], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def _wire(one: Machines, count: int) -> None:
    switch = one.namespace("sw")
    ip("netns", "add", switch)
    ip("-n", switch, "link", "add", "br0", "type", "bridge")
    ip("-n", switch, "link", "set", "br0", "up")
    for node in range(count):
        name = one.namespace(node)
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", f"port{node}", "netns", switch)
        ip("-n", name, "addr", "add", f"10.77.0.{node + 1}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", switch, "link", "set", f"port{node}", "master", "br0", "up")


def _until(one: Machines, folder: Path, count: int) -> None:
    """Wait until this many nodes are alive."""
    code = "import ray; ray.init(log_to_driver=False); print(sum(node['Alive'] for node in ray.nodes()))"
    until = time.monotonic() + UP_S
    while time.monotonic() < until:
        with (folder / "count").open("wb"):
            pass
        asked = one.start(0, sys.executable, "-c", code, log=folder / "count")
        if asked.wait() == 0 and (folder / "count").read_text().strip().endswith(str(count)):
            return
        time.sleep(1)
    logs = "\n".join(path.read_text()[-2000:] for path in folder.iterdir() if path.is_file())
    raise RuntimeError(f"{count} nodes did not come up:\n{logs}")
