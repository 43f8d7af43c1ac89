"""``fedsim run``: options reach the run, output goes where it belongs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedsim import cli
from fedsim.build.resume import Resume
from fedsim.core.errors import DataError, Stopped
from tests.streams import stream


@pytest.fixture
def calls(monkeypatch):
    """Calls of the run, which is replaced by a synthetic one."""
    made = []

    def run(path, overrides=(), out=None, inline=False, check_nodes=False, data_roots=(), how=None):
        made.append((path, tuple(overrides), out, inline, check_nodes, tuple(data_roots), how))
        yield from stream()

    monkeypatch.setitem(sys.modules, "fedsim.build.run", SimpleNamespace(run=run))
    return made


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["fedsim", *arguments])
    monkeypatch.setattr(cli.stopping, "listen", lambda: None)
    monkeypatch.setattr(cli.stopping, "announce", lambda tell: None)
    monkeypatch.setattr(cli.stopping, "leave", sys.exit)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


def test_options_reach_the_run(calls, monkeypatch, capsys):
    code = call(
        monkeypatch,
        "run",
        "a.yaml",
        "--set",
        "seed=3",
        "--set",
        "lora.r=4",
        "--out",
        "here",
        "--inline",
        "--check-nodes",
        "--data-root",
        "d",
    )
    assert code == 0
    assert calls == [(Path("a.yaml"), ("seed=3", "lora.r=4"), Path("here"), True, True, (Path("d"),), Resume())]
    assert "all banks" in capsys.readouterr().out


def test_how_to_resume_reaches_the_run(calls, monkeypatch):
    assert call(monkeypatch, "run", "a.yaml", "--resume", "auto", "--no-fallback", "--steal-lock", "--new-noise") == 0
    assert calls[0][-1] == Resume(wanted=True, steal_lock=True, fallback=False, new_noise=True)


def test_resume_goes_on_in_a_directory(monkeypatch):
    made = []

    def resume(folder, overrides=(), inline=False, data_roots=(), how=None):
        made.append((folder, tuple(overrides), inline, tuple(data_roots), how))
        yield from stream()

    monkeypatch.setitem(sys.modules, "fedsim.build.run", SimpleNamespace(resume=resume))
    given = ("--set", "num_rounds=9", "--inline", "--quiet", "--data-root", "d")
    assert call(monkeypatch, "resume", "there", *given) == 0
    assert made == [(Path("there"), ("num_rounds=9",), True, (Path("d"),), Resume(wanted=True, required=True))]


def test_json_is_alone_on_stdout(calls, monkeypatch, capsys):
    assert call(monkeypatch, "run", "a.yaml", "--format", "json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["rounds"] == 2
    assert "round" in printed.err


def test_an_error_ends_the_run_with_one_line_and_its_code(monkeypatch, capsys):
    closed = []

    def run(path, overrides=(), out=None, inline=False, check_nodes=False, data_roots=(), how=None):
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

    def run(path, overrides=(), out=None, inline=False, check_nodes=False, data_roots=(), how=None):
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


@pytest.mark.parametrize(("signal", "code"), [(KeyboardInterrupt, 130), (Stopped, 143)])
def test_a_stopped_run_says_what_is_left(monkeypatch, capsys, signal, code):
    def run(path, overrides=(), out=None, inline=False, check_nodes=False, data_roots=(), how=None):
        yield from stream()[:6]
        raise signal

    monkeypatch.setitem(sys.modules, "fedsim.build.run", SimpleNamespace(run=run))
    assert call(monkeypatch, "run", "a.yaml") == code
    assert capsys.readouterr().out.endswith(
        "interrupted after 1 of 2 rounds; to go on: fedsim resume results/runs/quickstart\n"
    )


def test_a_bug_is_said_to_be_one(monkeypatch, capsys):
    def run(path, overrides=(), out=None, inline=False, check_nodes=False, data_roots=(), how=None):
        yield stream()[0]
        raise KeyError("oops")

    monkeypatch.setitem(sys.modules, "fedsim.build.run", SimpleNamespace(run=run))
    assert call(monkeypatch, "run", "a.yaml", "--quiet") == 70
    assert capsys.readouterr().err == "internal error: KeyError: 'oops'; fedsim --debug shows where\n"
    for arguments in (("--debug", "run", "a.yaml"), ("run", "a.yaml", "--debug")):
        assert call(monkeypatch, *arguments) == 70
        assert "Traceback" in capsys.readouterr().err
