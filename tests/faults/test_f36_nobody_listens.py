"""F36: the terminal is closed, the pipe is broken, the disk under a log is full. Training goes on to the same bits."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator

import pytest

from fedsim.core.events import Event, Finished
from fedsim.engine.driver import Driver
from fedsim.engine.pool import InlinePool
from fedsim.engine.resources import Actors
from fedsim.view import Pane, show
from tests.engine import fakes
from tests.faults.runs import Run, plan


class Broken(io.StringIO):
    """Takes one line and then no more."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.lines = number, 0

    def write(self, text: str) -> int:
        self.lines += 1
        if self.lines > 1:
            raise OSError(self.number, "gone")
        return super().write(text)

    def fileno(self) -> int:
        return self.nowhere.fileno()


@pytest.fixture(params=[errno.EPIPE, errno.ENOSPC, errno.EIO], ids=["pipe", "disk", "terminal"])
def broken(request, tmp_path) -> Iterator[Broken]:
    stream = Broken(request.param)
    with open(tmp_path / "stream", "w") as stream.nowhere:
        yield stream


def shown(stream: Broken, tmp_path) -> Run:
    """A run whose events are shown on a stream that breaks."""
    of = plan()
    run = Run([], [])

    def events() -> Iterator[Event]:
        for event in Driver(of, InlinePool(fakes.make_client(of)(), Actors(banks_per_actor=1))).run():
            run.events.append(event)
            yield event

    assert isinstance(show(events(), False, False, stream, stream), Finished)
    return run


def test_the_run_ends_with_the_same_bits(broken, tmp_path, reference) -> None:
    assert shown(broken, tmp_path).hash == reference.hash
    assert broken.lines == 3, "after the first refusal it is left alone, but for the table at the end"


def test_control_a_view_that_minds_ends_the_run(broken, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Pane, "line", lambda self, text: print(text, file=self.stream, flush=True))
    with pytest.raises(OSError, match="gone"):
        shown(broken, tmp_path)
