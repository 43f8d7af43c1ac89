"""Being told to stop: SIGTERM ends a run as Ctrl-C does, with exit code 143, and in time.

Whoever sends SIGTERM sends SIGKILL next: ``ray job stop`` waits three seconds. ``Stopped`` in the main thread lets a
run write what it has and end its processes. But it waits for a call into C to return (a large matrix product), so
another thread looks at the clock and ends the process when the time is over. A second Ctrl-C ends it at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from fedsim.core.errors import Stopped
from fedsim.engine import leftovers

SIGINT_EXIT, SIGTERM_EXIT = 130, 143
GRACE_S = 2.3


def listen() -> None:
    """Handle SIGTERM from now on. To be called in the main thread, once."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGTERM, _stop)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), name="fedsim-stop", daemon=True).start()


def announce(tell: Callable[[], None]) -> None:
    """Have ``tell`` called first of all when SIGTERM comes: ending the run may take all of the time."""

    def stop(signum: int, frame: FrameType | None) -> None:
        with suppress(RuntimeError):  # it came in the middle of a write
            tell()
        raise Stopped

    signal.signal(signal.SIGTERM, stop)


def leave(exit_code: int) -> NoReturn:
    """End the process now: Python's own way out takes seconds once torch is loaded."""
    sys.stdout.flush()
    sys.stderr.flush()
    _end(exit_code)


def _stop(signum: int, frame: FrameType | None) -> None:
    raise Stopped


def _watch(reader: int) -> None:
    """Python writes the number of every signal into the pipe as soon as it arrives."""
    interrupts = 0
    while (number := os.read(reader, 1)[0]) != signal.SIGTERM:
        interrupts += number == signal.SIGINT
        if interrupts > 1:
            _end(SIGINT_EXIT)
    time.sleep(GRACE_S)
    _end(SIGTERM_EXIT)


def _end(exit_code: int) -> NoReturn:
    """End the process and its Ray session, of which some helpers would go on without it."""
    try:
        leftovers.end_own()
    finally:
        os._exit(exit_code)
