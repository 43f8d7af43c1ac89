"""``fedsim`` called in this process, where starting Ray is an error that no test overlooks."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass

import pytest

from fedsim import cli
from fedsim.engine import cluster


class StartedRay(BaseException):
    """Not an Exception: the command line would turn it into a message."""


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


class Command:
    """``Command(monkeypatch)("check", "a.yaml")``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise StartedRay

        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(cluster, "_private_session", refuse)
        monkeypatch.setattr(cluster, "_has_session", lambda: False)
        monkeypatch.setattr(cli.stopping, "listen", lambda: None)
        monkeypatch.setattr(cli.stopping, "announce", lambda tell: None)

    def __call__(self, *arguments: str) -> Answer:
        """What the command prints, and its exit code. Raises StartedRay, and whatever the command line lets through."""
        out, err, before = io.StringIO(), io.StringIO(), sys.argv
        sys.argv = ["fedsim", *arguments]
        code: object = 0
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                cli.main()
        except SystemExit as ended:
            code = ended.code
        finally:
            sys.argv = before
        assert isinstance(code, int), code
        return Answer(code, out.getvalue(), err.getvalue())
