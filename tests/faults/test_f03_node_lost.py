"""F3: a node's raylet is killed. F4: it is stopped and goes on later. F5: no node is left to go on with.

Also F31: what banks keep lies in the object store of a node that is gone, and was copied in time. The programs are in
``tests.faults.nodes``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from fedsim.engine.lease import LOOK_S
from tests.engine import fakes
from tests.faults.apart import ROOT, told_by

PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print(child.pid, flush=True)
time.sleep(60)
"""
ORPHAN = "import time; from fedsim.engine.lease import hold; hold(); time.sleep(30)"
UNGUARDED = "import time; time.sleep(30)"


def of_killed_parent(code: str) -> psutil.Process:
    """A process whose parent has been killed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, code], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(1.0)  # the child holds its lease by now
        parent.kill()
    return child


def test_an_orphan_ends_itself() -> None:
    orphan, unguarded = of_killed_parent(ORPHAN), of_killed_parent(UNGUARDED)
    fakes.wait_until(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE, 10.0)
    time.sleep(2 * LOOK_S)
    assert unguarded.is_running(), "control"
    unguarded.kill()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_f3_its_work_moves_and_its_orphan_ends(tmp_path) -> None:
    found = told_by("tests.faults.nodes", "f03", tmp_path)
    (failed,) = found["failed"]
    assert failed[:3] == ["north", 2, 1]
    assert failed[3] in ("unreachable", "died", "node_lost")
    assert (found["same"], found["same_ledger"], found["error"]) == (True, True, None)
    assert found["orphan_s"] < 10
    assert not found["pid_alive"]
    assert found["big"] == [3.0] * 3, "what the lost node kept for its banks"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_f4_the_deadline_comes_first_and_the_late_answer_is_not_counted(tmp_path) -> None:
    found = told_by("tests.faults.nodes", "f04", tmp_path)
    assert ["north", 2, 1, "late", "retry"] in found["failed"]
    assert {tuple(one[3:]) for one in found["failed"]} == {("late", "retry")}, "on a busy machine others are late, too"
    assert (found["same"], found["same_ledger"], found["error"]) == (True, True, None)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_f5_waits_with_a_line_now_and_then_and_ends_with_the_arithmetic(tmp_path) -> None:
    found = told_by("tests.faults.nodes", "f05", tmp_path)
    assert len(found["waited"]) >= 2
    code, message = found["error"]
    assert code == 4
    assert "need 1 x (1 CPU, 0 GPU); the cluster's 1 nodes have 0 CPU" in message
