"""What a run shows, to the character; stdout stays clean; a reader that goes away stops nothing."""

from __future__ import annotations

import io
import json
import os
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len

from fedsim.core.errors import FedsimError
from fedsim.core.events import RoundRow, Started
from fedsim.view import show
from tests.streams import started, stream

PLAIN = """\
quickstart: 2 banks, 1500 training rows, 2 rounds
  epsilon 8 buys 200 rounds at noise multiplier 1.0; 2 are planned.
run directory: results/runs/quickstart

round      banks    loss       AUC  epsilon       up     down     time     left
0/2            0       -     0.500        0      0 B      0 B    2.0 s        -
1/2            2   0.600     0.625    0.500  4.00 kB  6.00 kB    3.0 s    3.0 s
2/2            2   0.500     0.750     1.00  4.00 kB  6.00 kB    4.0 s    0.0 s
baseline zero_shot: AUC 0.500
baseline local: AUC 0.600

bank            train    AUC    acc     F1  local  epsilon       up     down
----------------------------------------------------------------------------
bank-00          1000  0.800  0.800      -  0.660     1.00  4.00 kB  6.00 kB
bank-01           500  0.700  0.800      -  0.580     1.00  4.00 kB  6.00 kB
----------------------------------------------------------------------------
all banks        1500  0.750  0.800  0.250      -     1.00  8.00 kB  12.0 kB
worst: bank-01    500  0.700  0.800      -  0.580     1.00  4.00 kB  6.00 kB
----------------------------------------------------------------------------
zero shot           -  0.500      -      -      -        -        -        -
local               -  0.600  0.700      -      -        -        -        -
best local          -  0.640  0.710      -      -        -        -        -
best possible       -  0.850      -      -      -        -        -        -
completed: 2 rounds in 12 s; epsilon at delta 1e-05
run directory: results/runs/quickstart
"""


class Screen(io.StringIO):
    """A terminal as far as the view can tell."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")


def shown(events, as_json=False, quiet=False, out=None):
    """(stdout, stderr) of a run."""
    out, err = out or io.StringIO(), io.StringIO()
    show(events, as_json, quiet, out, err)
    return out.getvalue(), err.getvalue()


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_plain_text():
    assert shown(stream(baselines=True)) == (PLAIN, "")


@pytest.mark.parametrize("private", [True, False])
def test_nothing_is_wider_than_80_columns(private):
    names = ["First National Bank of Omaha and the Rest of Nebraska", "bank-01"]
    out, _ = shown(stream(private, baselines=True, names=names))
    assert max(map(len, out.splitlines())) <= 80
    out, _ = shown(stream(private, baselines=True, names=names), quiet=True, out=Screen())
    assert max(map(cell_len, re.sub("\x1b\\[[0-9;]*m", "", out).splitlines())) <= 80


def test_epsilon_is_not_shown_where_nothing_is_promised():
    out, _ = shown(stream(private=False))
    assert "1/2            2   0.600     0.625        -  4.00 kB" in out
    assert "epsilon at delta" not in out


def test_long_notes_are_wrapped():
    notes = ("epsilon 1.0 buys 3 rounds at noise multiplier 1.0, " * 3,)
    out, _ = shown([replace(started(), notes=notes), *stream()[1:]])
    assert max(map(len, out.splitlines())) <= 80
    assert out.splitlines()[2].startswith("  ")


def test_rounds_without_evaluation_show_a_dash_and_no_second_header():
    events = [replace(e, metrics={}) if isinstance(e, RoundRow) and e.round == 1 else e for e in stream()]
    out, _ = shown(events)
    assert "1/2            2   0.600         -" in out
    assert out.count("round      banks") == 1


def test_json_is_alone_on_stdout_and_strict():
    out, err = shown(stream(baselines=True), as_json=True)
    assert out.count("\n") == 1
    assert out.endswith("\n")
    summary = strict(out)
    assert summary["banks"]["bank-00"]["f1"] is None  # NaN
    assert summary["status"] == "completed"
    assert "1/2            2   0.600     0.625" in err


def test_json_without_privacy_is_strict_too():
    assert strict(shown(stream(private=False), as_json=True)[0])["epsilon"] is None


def test_quiet_shows_the_end_only():
    out, err = shown(stream(), quiet=True)
    assert out.startswith("\nbank ")
    assert err == ""
    out, err = shown(stream(), as_json=True, quiet=True)
    assert strict(out)
    assert err == ""


def test_a_terminal_gets_the_same_lines_and_cells():
    out, _ = shown(stream(baselines=True), out=Screen())
    for line in (*PLAIN.splitlines()[:10], *PLAIN.splitlines()[-2:]):
        assert line in out
    for name in ("bank-01", "all banks", "worst: bank-01", "best possible"):
        assert name in out
    assert "epsilon" in out


def test_a_terminal_takes_names_as_they_are():
    out, _ = shown(stream(names=["[bold]:smile:", "bank-01"]), quiet=True, out=Screen())
    assert "[bold]:smile:" in out


def test_a_terminal_shows_banks_done_and_time_left():
    out, _ = shown(stream(), out=Screen())
    assert "round 1/2" in out
    assert "1/2 banks" in out
    assert "left 1.5 s" in out  # half of the second round at 3 s per round


def test_a_closed_pipe_ends_the_showing_and_not_the_run():
    reader, writer = os.pipe()
    os.close(reader)
    seen = []

    def events():
        for event in stream():
            seen.append(event)
            yield event

    with os.fdopen(writer, "w") as out:
        finished = show(events(), False, False, out, io.StringIO())
    assert finished.status == "completed"
    assert len(seen) == len(stream())


def test_a_name_that_the_stream_cannot_write_stops_nothing():
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    events = [replace(e, name="Köln") if isinstance(e, Started) else e for e in stream()]
    show(events, False, False, out, io.StringIO())
    assert out.buffer.getvalue().startswith(b"K?ln: 2 banks")


def test_a_run_without_an_end_is_an_error():
    with pytest.raises(FedsimError, match="without a summary"):
        shown(stream()[:-1])
