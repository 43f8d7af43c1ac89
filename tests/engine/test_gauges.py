"""Gauges: what a run exports, and that no bank is named unless it is asked for."""

from __future__ import annotations

import math
import re
import time
import urllib.request
from collections.abc import Iterator

import pytest

from fedsim.core.events import BankDone, Event, Failed
from fedsim.engine import gauges as module
from fedsim.engine.gauges import BANK_GAUGES, GAUGES, gauged
from tests.streams import NAMES, round_row, started


class Recorder:
    """Stands for Ray's Gauge."""

    seen: dict[tuple[str, tuple[tuple[str, str], ...]], float]

    def __init__(self, name: str, seen: dict) -> None:  # type: ignore[type-arg]
        self.name, self.seen = name, seen

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set((GAUGES | BANK_GAUGES)[self.name][1])
        assert all(isinstance(tag, str) for tag in tags.values())
        assert math.isfinite(value)
        self.seen[self.name, tuple(sorted(tags.items()))] = value


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict:  # type: ignore[type-arg]
    values: dict = {}  # type: ignore[type-arg]
    monkeypatch.setattr(module, "_gauge", lambda name: Recorder(name, values))
    return values


def events(private: bool = True) -> Iterator[Event]:
    yield started(private)
    yield round_row(0, private)
    yield Failed(1, NAMES[0], 1, "died", "it died", "look", "retry")
    yield BankDone(1, NAMES[0], 1, 2)
    yield round_row(1, private)
    yield round_row(2, private)
    yield BankDone(3, NAMES[0], 1, 2)


def test_what_is_exported(seen) -> None:
    given = list(events())
    assert list(gauged((event for event in given), False)) == given  # type: ignore[arg-type]
    run = ("run", "quickstart")
    assert seen["fedsim_round", (run,)] == 2
    assert seen["fedsim_rounds_planned", (run,)] == 2
    assert seen["fedsim_round_seconds", (run,)] == 4.0
    assert seen["fedsim_banks_done", (run,)] == 1
    assert seen["fedsim_banks_asked", (run,)] == 2
    assert seen["fedsim_epsilon", (run,)] == 1.0
    assert seen["fedsim_bytes_up", (run,)] == 8000
    assert seen["fedsim_bytes_down", (run,)] == 12000
    assert seen["fedsim_metric", (("metric", "auc"), run)] == 0.75
    assert seen["fedsim_failures", (("cause", "died"), run)] == 1
    assert {name for name, _ in seen} == set(GAUGES)


def test_no_bank_is_named_unless_it_is_asked_for(seen) -> None:
    list(gauged(events(), False))  # type: ignore[arg-type]
    assert not any(key == "bank" for _, tags in seen for key, _ in tags)
    list(gauged(events(), True))  # type: ignore[arg-type]
    assert seen["fedsim_bank_epsilon", (("bank", NAMES[0]), ("run", "quickstart"))] == 1.0


def test_what_is_not_finite_is_not_exported(seen) -> None:
    list(gauged(events(private=False), True))  # type: ignore[arg-type]
    assert ("fedsim_epsilon", (("run", "quickstart"),)) not in {key for key in seen if seen[key] == math.inf}
    assert not any("f1" in dict(tags).values() for name, tags in seen if name == "fedsim_bank_metric")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_ray_exports_them() -> None:
    """As Prometheus would scrape them; the node's agent is told every ten seconds."""
    import ray

    list(gauged(events(), False))  # type: ignore[arg-type]
    (node,) = ray.nodes()
    url, text, until = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", "", time.monotonic() + 60
    while "ray_fedsim_round{" not in text and time.monotonic() < until:
        time.sleep(2)
        text = urllib.request.urlopen(url, timeout=5).read().decode()
    found = set(re.findall(r"^ray_(fedsim_\w+)\{", text, re.MULTILINE))
    assert found == set(GAUGES)
    assert 'run="quickstart"' in text
    assert NAMES[0] not in text
