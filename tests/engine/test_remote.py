"""Events on their way out of the driver's process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedsim.core.events import BankDone, Waiting
from fedsim.engine import remote
from fedsim.engine.resources import Actors


def test_what_is_told_of_banks_that_trained_together_travels_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else waits."""
    first, second, third = (BankDone(1, bank, number, 3, more=bank != "b") for number, bank in enumerate("abc", 1))
    waiting = Waiting(1.0, "for room")

    class Driver:
        def __init__(self, *_: object) -> None: ...

        def run(self) -> Iterator[object]:
            yield from (waiting, first, second, third, waiting)

    monkeypatch.setattr("fedsim.engine.driver.Driver", Driver)
    monkeypatch.setattr(remote._DriverProcess, "_staff", lambda *_: None)
    monkeypatch.setattr(remote.ray, "get", lambda plan: plan)
    sent = list(remote._DriverProcess().run([None, None], Actors()))
    assert sent == [[waiting], [first, second], [third, waiting]]
