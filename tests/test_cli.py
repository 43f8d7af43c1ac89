"""The command line's exit codes and what it prints where."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim import __version__
from fedsim.cli import main

GOOD = "num_rounds: 3\nnum_clients: 4\ndata: {kind: table, path: loans.csv}\nmodel: {kind: embedded}\n"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of ``fedsim`` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["fedsim", *arguments])
    monkeypatch.setattr("fedsim.stopping.listen", lambda: None)
    monkeypatch.setattr("fedsim.stopping.announce", lambda tell: None)
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_check_says_that_there_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "good.yaml"
    file.write_text(GOOD)
    assert run(monkeypatch, "check", str(file)) == 0
    assert capsys.readouterr() == ("1 file, no problems\n", "")
    assert run(monkeypatch, "check", str(file), str(file)) == 0
    assert capsys.readouterr() == ("2 files, no problems\n", "")


def test_check_prints_every_problem_on_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(GOOD)
    bad.write_text(GOOD.replace("3", "ten").replace("path", "pth"))
    assert run(monkeypatch, "check", str(bad), str(good), str(tmp_path / "goood.yaml")) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f'{bad}:1:1: num_rounds: expected integer, got string "ten"',
        f"{bad}:3:1: data: 'path' is required",
        f"{bad}:3:21: data: unknown field 'pth'; did you mean 'path'?",
        f"{tmp_path}/goood.yaml: no such file; did you mean {good}?",
    ]


def test_the_highest_exit_code_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text("a: &x 1")
    (tmp_path / "b.yaml").write_text("a: ")
    assert run(monkeypatch, "check", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")) == 8
    capsys.readouterr()


def test_a_traceback_only_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "check", str(tmp_path)) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert run(monkeypatch, "--debug", "check", str(tmp_path)) == 2
    assert "Traceback" in capsys.readouterr().err


def test_version_and_usage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"fedsim {__version__}\n"
    assert run(monkeypatch, "check") == 2
    assert run(monkeypatch, "nonsense") == 2
    capsys.readouterr()


def test_schema_is_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "fedsim scenario"


def test_starting_costs_no_heavy_library() -> None:
    heavy = "torch", "ray", "transformers", "pandas", "opacus", "datasets"
    code = f"import fedsim.cli, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
