"""Where lines go: a stream, a terminal with a bar, or nowhere."""

from __future__ import annotations

import os
from io import TextIOWrapper
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from fedsim.records.text import human_seconds
from fedsim.view.story import Story


class Pane:
    """Where lines go: a stream that may go away."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.gone = stream, False
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name that the terminal cannot write is no reason to stop

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def line(self, text: str) -> None:
        if self.gone:
            return
        try:
            print(text, file=self.stream, flush=True)
        except OSError:  # closed pipe, full disk: training goes on; what the stream still holds goes nowhere
            self.gone = True
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())

    def progress(self, story: Story) -> None:
        """Nothing moves here."""


class Silence(Pane):
    """Where nothing is shown."""

    def line(self, text: str) -> None:
        pass


class Terminal(Pane):
    """Lines above a bar that moves with every bank."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[banks]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console(stream),
            transient=True,
        )
        self.task = self.bar.add_task("starting", total=None, banks="", left="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def line(self, text: str) -> None:
        self.bar.console.print(text, soft_wrap=True)

    def progress(self, story: Story) -> None:
        over, left = story.round >= story.num_rounds, story.seconds_left
        self.bar.update(
            self.task,
            description="finishing" if over else f"round {story.round + 1}/{story.num_rounds}",
            total=None if over else story.num_rounds,
            completed=story.rounds_done,
            banks=f"{story.banks_done}/{story.banks_total} banks" if story.banks_total else "",
            left=f"left {human_seconds(left)}" if left and not over else "",
            refresh=True,
        )


def console(stream: TextIO) -> Console:
    """A console that takes text as it is: a bank may be called ``[bold]``."""
    return Console(file=stream, markup=False, emoji=False, highlight=False)
