"""The long tier: as many cases as forty seconds hold for each thing that is broken, and it says how many these were."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

LIMIT_S = 40.0


def seeds(most: int) -> Iterator[int]:
    """0, 1, ... below ``most``, as long as there is time."""
    end = time.monotonic() + LIMIT_S
    for seed in range(most):
        if time.monotonic() > end:
            return
        yield seed


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
