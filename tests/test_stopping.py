"""SIGTERM ends the process with 143, by an exception where there is time, and in any case soon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fedsim.engine import leftovers
from fedsim.stopping import GRACE_S
from tests.engine.fakes import wait_until

LISTENING = """
import signal
import sys
import time
from fedsim import stopping
from fedsim.core.errors import Stopped

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
stopping.listen()
try:
    print("ready", flush=True)
    {work}
except Stopped:
    print("stopped", flush=True)
    stopping.leave(stopping.SIGTERM_EXIT)
"""

HASHING = "__import__('hashlib').pbkdf2_hmac('sha256', b'', b'', 10**9)"  # minutes, in which Python sees no signal


def sent(work: str, number: int, after_s: float = 0) -> tuple[int, str, float]:
    """(exit code, what was printed, seconds until the end) of a process that listens, works and gets a signal."""
    code = LISTENING.format(work=work)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(after_s)
        start = time.monotonic()
        os.kill(process.pid, number)
        rest = process.stdout.read()
        return process.wait(), rest, time.monotonic() - start


def test_the_main_thread_is_told() -> None:
    code, printed, seconds = sent("time.sleep(60)", signal.SIGTERM)
    assert (code, printed) == (143, "stopped\n")
    assert seconds < GRACE_S


def test_a_long_call_into_c_ends_in_time() -> None:
    code, printed, seconds = sent(HASHING, signal.SIGTERM, after_s=0.5)
    assert (code, printed) == (143, "")  # nobody was told
    assert seconds < GRACE_S + 2  # of a machine with other things to do


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_who_is_told_first_is_told_though_ending_takes_too_long(number: int, code: int) -> None:
    announced = "stopping.INTERRUPT_S = 1.0; stopping.announce(lambda: print('go on so', flush=True))"
    work = f"{announced}\n    try: time.sleep(60)\n    finally: {HASHING}"
    found, printed, seconds = sent(work, number, after_s=0.3)
    assert (found, printed) == (code, "go on so\n")
    assert seconds < GRACE_S + 2  # of a machine with other things to do


@pytest.mark.parametrize("later", [signal.SIGTERM, signal.SIGINT], ids=["sigterm", "ctrl-c"])
def test_what_the_first_signal_begins_is_not_cut_short_by_the_next(later: signal.Signals) -> None:
    """A second Ctrl-C ends the process, by another thread; its exception in this one would have come in between."""
    slow = "os._exit = lambda code: (time.sleep(1.0), print('left', flush=True), end(code))"
    ending = f"signal.raise_signal({later:d}); time.sleep(0.3); print('ended', flush=True); time.sleep(60)"
    work = f"os = __import__('os'); end = os._exit; {slow}\n    try: time.sleep(60)\n    finally: {ending}"
    code, printed, _ = sent(work, signal.SIGINT, after_s=0.3)
    assert printed == "ended\nleft\n"
    assert code == (143 if later == signal.SIGTERM else 130)


def test_the_second_interrupt_ends_it_at_once() -> None:
    work = f"try: signal.raise_signal(signal.SIGINT)\n    except KeyboardInterrupt: {HASHING}"
    code, _, seconds = sent(f"\n    {work}", signal.SIGINT, after_s=0.5)
    assert code == 130
    assert seconds < 2


def test_what_it_has_started_ends_with_it() -> None:
    """Also what is nobody's child by now. Its folder goes too."""
    begin = "import os, subprocess; from fedsim.engine import leftovers; leftovers.mark(os.environ); "
    begin += "print(leftovers.make_folder()); "
    begin += "child = subprocess.Popen(['sh', '-c', 'sleep 60 >/dev/null & echo $!'], stdout=-1); child.wait()"
    told = "print(int(child.stdout.readline()), flush=True)"
    code, printed, _ = sent(f"{begin}; {told}; {HASHING}", signal.SIGTERM, after_s=1.0)
    assert code == 143
    folder, grandchild = printed.split()
    assert not Path(folder).exists()
    wait_until(lambda: is_gone(int(grandchild)))


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_what_starts_while_the_others_are_killed_is_killed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(leftovers.MARK, "")
    leftovers.mark(os.environ)
    first, second = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    monkeypatch.delenv(leftovers.MARK)
    leftovers.end_own()
    assert not is_gone(first.pid), "control: this process has started nothing"
    leftovers.mark(os.environ)
    looks = iter([[first.pid], [second.pid], []])
    monkeypatch.setattr(psutil, "process_iter", lambda: [psutil.Process(pid) for pid in next(looks)])
    leftovers.end_own()
    assert is_gone(first.pid)
    assert is_gone(second.pid)
    first.wait()
    second.wait()


def test_another_signal_starts_no_clock() -> None:
    work = "told = []; signal.signal(signal.SIGUSR1, lambda *_: told.append(1))\n    while not told: time.sleep(0.01)"
    code, printed, _ = sent(f"{work}\n    print('still here', flush=True)", signal.SIGUSR1, after_s=0.5)
    assert (code, printed) == (0, "still here\n")
