"""The long tier says how much it did."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest


@pytest.fixture
def fuzz_report(capsys: pytest.CaptureFixture[str]) -> Callable[[str], AbstractContextManager[Counter[str]]]:
    """``with fuzz_report("what") as counts``: one line of a table in the log, cases by outcome and seconds."""

    @contextmanager
    def report(what: str) -> Iterator[Counter[str]]:
        counts, start = Counter[str](), time.perf_counter()
        yield counts
        outcomes = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        with capsys.disabled():
            print(f"\n| {what} | {counts.total()} | {time.perf_counter() - start:.0f} | {outcomes} |")

    return report
