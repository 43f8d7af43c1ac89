"""``fedsim run``: options reach the run, output goes where it belongs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedsim import cli
from fedsim.core.errors import DataError
from tests.streams import stream


@pytest.fixture
def calls(monkeypatch):
    """Calls of the run, which is replaced by a synthetic one."""
    made = []

    def run(path, overrides=(), out=None, inline=False):
        made.append((path, tuple(overrides), out, inline))
        yield from stream()

    monkeypatch.setitem(sys.modules, "fedsim.build.run", SimpleNamespace(run=run))
    return made


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["fedsim", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


def test_options_reach_the_run(calls, monkeypatch, capsys):
    code = call(monkeypatch, "run", "a.yaml", "--set", "seed=3", "--set", "lora.r=4", "--out", "here", "--inline")
    assert code == 0
    assert calls == [(Path("a.yaml"), ("seed=3", "lora.r=4"), Path("here"), True)]
    assert "all banks" in capsys.readouterr().out


def test_json_is_alone_on_stdout(calls, monkeypatch, capsys):
    assert call(monkeypatch, "run", "a.yaml", "--format", "json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["rounds"] == 2
    assert "round" in printed.err


def test_an_error_ends_the_run_with_one_line_and_its_code(monkeypatch, capsys):
    closed = []

    def run(path, overrides=(), out=None, inline=False):
        try:
            yield stream()[0]
            raise DataError("loans.csv: no column 'bank'")
        finally:
            closed.append(path)

    monkeypatch.setitem(sys.modules, "fedsim.build.run", SimpleNamespace(run=run))
    assert call(monkeypatch, "run", "a.yaml", "--quiet") == 3
    assert capsys.readouterr().err == "loans.csv: no column 'bank'\n"
    assert closed == [Path("a.yaml")]


def test_an_interrupt_closes_the_run_and_exits_130(monkeypatch, capsys):
    closed = []

    def run(path, overrides=(), out=None, inline=False):
        try:
            yield from stream()
        finally:
            closed.append(path)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "fedsim.build.run", SimpleNamespace(run=run))
    monkeypatch.setattr("fedsim.view.Story.tell", interrupt)
    assert call(monkeypatch, "run", "a.yaml") == 130
    assert closed == [Path("a.yaml")]
