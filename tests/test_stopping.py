"""SIGTERM ends the process with 143, by an exception where there is time, and in any case soon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil

from fedsim.stopping import GRACE_S
from tests.engine.fakes import wait_until

LISTENING = """
import sys
from fedsim import stopping
from fedsim.core.errors import Stopped

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
    code, printed, seconds = sent("__import__('time').sleep(60)", signal.SIGTERM)
    assert (code, printed) == (143, "stopped\n")
    assert seconds < GRACE_S


def test_a_long_call_into_c_ends_in_time() -> None:
    code, printed, seconds = sent(HASHING, signal.SIGTERM, after_s=0.5)
    assert (code, printed) == (143, "")  # nobody was told
    assert seconds < GRACE_S + 2  # of a machine with other things to do


def test_who_is_told_first_is_told_though_ending_takes_too_long() -> None:
    announced = "stopping.announce(lambda: print('go on so', flush=True))"
    work = f"{announced}\n    try: __import__('time').sleep(60)\n    finally: {HASHING}"
    code, printed, _ = sent(work, signal.SIGTERM, after_s=0.3)
    assert (code, printed) == (143, "go on so\n")


def test_the_second_interrupt_ends_it_at_once() -> None:
    begin = "signal = __import__('signal'); signal.signal(signal.SIGINT, signal.default_int_handler)"
    twice = f"{begin}; os = __import__('os'); os.kill(os.getpid(), signal.SIGINT)"
    work = f"try: {twice}\n    except KeyboardInterrupt: {HASHING}"
    code, _, seconds = sent(f"\n    {work}", signal.SIGINT, after_s=0.5)
    assert code == 130
    assert seconds < 2


def test_what_it_has_started_ends_with_it() -> None:
    """Also what is nobody's child by now."""
    begin = "import os, subprocess; from fedsim.engine import leftovers; leftovers.mark(os.environ); "
    begin += "child = subprocess.Popen(['sh', '-c', 'sleep 60 >/dev/null & echo $!'], stdout=-1); child.wait()"
    told = "print(int(child.stdout.readline()), flush=True)"
    code, printed, _ = sent(f"{begin}; {told}; {HASHING}", signal.SIGTERM, after_s=1.0)
    assert code == 143
    grandchild = int(printed)
    wait_until(lambda: not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == "zombie")


def test_another_signal_starts_no_clock() -> None:
    work = "signal = __import__('signal'); signal.signal(signal.SIGUSR1, lambda *_: None); signal.pause()"
    code, printed, _ = sent(f"{work}; print('still here', flush=True)", signal.SIGUSR1)
    assert (code, printed) == (0, "still here\n")
