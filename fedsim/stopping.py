"""Being told to stop: SIGTERM ends a run as Ctrl-C does, with exit code 143, and in time.

``KeyboardInterrupt`` or ``Stopped`` in the main thread lets a run write what it has and end its processes. The main
thread is told once: a second exception would cut short what the first one has begun. But it waits for a call into C to
return (a large matrix product), and for Ray, so another thread looks at the clock and ends the process when the time
is over: whoever sends SIGTERM sends SIGKILL next, ``ray job stop`` after three seconds. A second Ctrl-C ends it at
once.
"""

from __future__ import annotations

import os
import select
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
INTERRUPT_S, GRACE_S = 9.0, 2.3
Handler = Callable[[int, FrameType | None], None]


def listen() -> None:
    """Handle SIGTERM and Ctrl-C from now on. To be called in the main thread, once."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored: a shell's background job
        signal.signal(signal.SIGINT, _interrupt)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), name="fedsim-stop", daemon=True).start()


def announce(tell: Callable[[], None]) -> None:
    """Have ``tell`` called first of all when a signal comes: ending the run may take all of the time."""

    def first(handler: Handler) -> Handler:
        def handle(signum: int, frame: FrameType | None) -> None:
            _tell_no_more()
            with suppress(RuntimeError):  # it came in the middle of a write
                tell()
            handler(signum, frame)

        return handle

    for number, handler in ((signal.SIGINT, _interrupt), (signal.SIGTERM, _stop)):
        if signal.getsignal(number) is handler:  # else it is ignored, or has come
            signal.signal(number, first(handler))


def leave(exit_code: int) -> NoReturn:
    """End the process now: Python's own way out takes seconds once torch is loaded."""
    with suppress(OSError, ValueError):  # nobody reads any more
        sys.stdout.flush()
        sys.stderr.flush()
    _end(exit_code)


def _stop(signum: int, frame: FrameType | None) -> None:
    _tell_no_more()
    raise Stopped


def _interrupt(signum: int, frame: FrameType | None) -> None:
    _tell_no_more()
    raise KeyboardInterrupt


def _tell_no_more() -> None:
    """From now on signals are for ``_watch`` alone; one that is ignored would not get there."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, frame: None)


def _watch(reader: int) -> None:
    """Python writes the number of every signal into the pipe as soon as it arrives."""
    exit_code, end = 0, float("inf")
    while True:
        left = None if not exit_code else max(0.0, end - time.monotonic())
        if not select.select([reader], [], [], left)[0]:
            _end(exit_code)
        number = os.read(reader, 1)[0]
        if number == signal.SIGINT and exit_code:
            _end(SIGINT_EXIT)
        elif number == signal.SIGINT:
            exit_code, end = SIGINT_EXIT, time.monotonic() + INTERRUPT_S
        elif number == signal.SIGTERM and exit_code != SIGTERM_EXIT:
            exit_code, end = SIGTERM_EXIT, time.monotonic() + GRACE_S


def _end(exit_code: int) -> NoReturn:
    """End the process and its Ray session, of which some helpers would go on without it."""
    try:
        leftovers.end_own()
    finally:
        os._exit(exit_code)
