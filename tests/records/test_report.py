"""The report: one file that fetches nothing, says everything in words too, and lies nowhere about names."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from fedsim.records.charts import _room, curves
from fedsim.records.collect import collect
from fedsim.records.page import html_table
from fedsim.records.report import band, report
from tests.records.made import bank, make_run

CHARTS = 2 + 4 + 5 + 4 + 4  # curves, gains, costs, splits, timelines
EVIL = "<script>alert('x')</script> & \"Söhne\" $1^2$"
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Reader(HTMLParser):
    """Checks that elements close in order, and collects what the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action", "poster") and not value.startswith(
                ("#", "data:")
            ):
                self.fetched.append(value)

    def handle_startendtag(self, tag, attrs) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("runs")
    for kind in ("iid", "size"):
        for strategy, gain in (("fedavg", 0.1), ("flasc", -0.02), ("local", 0.0)):
            for seed in (1, 2):
                banks = {name: bank(0.7 + gain + 0.01 * seed, 5_000, 8.0) for name in (EVIL, "b")}
                partition = {"kind": kind, "num_banks": 2}
                make_run(root / f"{kind}-{strategy}-{seed}", strategy, seed, banks, partition=partition)
    lost = {"round": 2, "bank": "b", "cause": "not_finite", "action": "skip", "message": "no number"}
    (root / "iid-fedavg-1" / "failures.jsonl").write_text(json.dumps(lost) + "\n")
    failed = {"name": "seed=9", "status": "failed", "error": "no column 'nix'"}
    (root / "grid.json").write_text(json.dumps({"runs": [failed]}))
    return report(*collect([root]))


def test_it_parses_and_fetches_nothing(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert (reader.open, reader.fetched) == ([], [])
    assert not {"script", "link", "iframe", "object", "img"} & set(reader.tags)
    assert not re.search(r"https?:|@import|url\((?!#)", page)


def test_every_chart_says_what_it_shows(page: str) -> None:
    charts = re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL)
    assert len(charts) == CHARTS
    for chart in charts:
        root = ElementTree.fromstring(chart.replace("<svg ", '<svg xmlns:xlink="x" ', 1))
        assert root.get("role") == "img"
        assert len(root.get("aria-label", "")) > 20
    assert page.count("<figcaption>") == len(charts)


def test_sections_and_numbers(page: str) -> None:
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "What was asked",
        "Result",
        "Learning curves",
        "Who gains by joining",
        "What it costs",
        "Who holds what",
        "Who trained which bank when",
        "What failed",
        "How to get each row again",
    ]
    assert "<td>+0.100 ±0.000</td>" in page
    assert "failed: seed=9: no column &#x27;nix&#x27;" in page
    assert len(re.findall(r"<code>fedsim run .*?scenario.yaml</code>", page)) == 12


def test_names_are_text(page: str) -> None:
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp;" in page


def test_a_band_is_over_the_seeds_that_have_the_round() -> None:
    rounds, mean, width = band([{0: 0.5, 2: 0.7}, {0: 0.7}])
    assert (rounds.tolist(), mean.tolist()) == ([0, 2], [pytest.approx(0.6), 0.7])
    assert width[0] == pytest.approx(12.7062 * 0.1, rel=1e-4)
    assert np.isnan(width[1])


def test_an_axis_has_room_for_what_differs_not_for_the_widest_interval() -> None:
    low, high = _room(np.array([0.5, 0.7]), np.array([0.1, 9.0]), least=0.05)  # they differ by 0.2
    assert (low, high) == (pytest.approx(0.5 - 0.2 - 0.01), pytest.approx(0.7 + 0.2 + 0.01))
    low, high = _room(np.array([0.5, 0.7]), np.array([0.1, np.nan]), least=0.05)
    assert (low, high) == (pytest.approx(0.4 - 0.01), pytest.approx(0.7 + 0.01))


def test_the_same_chart_is_the_same_text() -> None:
    line = {"a": (np.array([0, 1]), np.array([0.5, 0.6]), np.array([0.1, np.nan]))}
    first, second = (curves(line, "round", "AUC").svg() for _ in range(2))
    assert first == second
    assert 'aria-label="AUC by round; at the end a 0.600"' in first


def test_a_table_escapes_and_aligns() -> None:
    text = html_table(("a<b", "n", "do"), [("x", "1", "run 'y'")], 1, code=2)
    assert '<th scope="col" class="name">a&lt;b</th><th scope="col">n</th>' in text
    assert '<td class="name"><code>run &#x27;y&#x27;</code></td>' in text


def test_what_was_sent_through_which_codec_and_what_failed(page: str) -> None:
    assert '<td class="name">topk-0.1 then affine-8</td><td>10.0 kB</td><td>2.50 kB</td>' in page
    assert "<td>as the method sends</td><td>100 B</td><td>25 B</td>" in page  # four times a bank was asked
    assert "2 actors trained 2 banks in 2 s, busy with training 67% of the time" in page  # 4 of 2 x 1.5 / 2
    for cell in ("no number", "skip", "not finite"):
        assert f">{cell}</td>" in page


def test_a_browser_shows_it_without_complaint(page: str, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    (tmp_path / "report.html").write_text(page)
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--enable-logging=stderr",
    ]
    command = [browser, *flags, "--dump-dom", f"--user-data-dir={tmp_path}/profile", f"file://{tmp_path}/report.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.count("<svg ") == CHARTS
    assert "CONSOLE" not in done.stderr
