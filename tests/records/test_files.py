"""Whole files or none, and JSON that every reader accepts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fedsim.core.errors import CheckpointError
from fedsim.records.files import append_lines, read_json, read_lines, to_json, write_atomically, write_folder


def test_json_is_strict_and_ascii():
    text = to_json({"nan": math.nan, "deep": [{"inf": (-math.inf, 1.5)}], "name": "Köln", "yes": True})
    assert text == '{"nan": null, "deep": [{"inf": [null, 1.5]}], "name": "K\\u00f6ln", "yes": true}'


def test_json_refuses_foreign_objects():
    with pytest.raises(TypeError):
        to_json({"path": Path("x")})


def test_a_write_that_fails_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match=r"cannot write .*file: No space left on device; .*free space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def test_no_temporary_file_stays(tmp_path):
    write_atomically(tmp_path / "file", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_appears_only_when_it_is_filled(tmp_path):
    target = tmp_path / "adapters" / "global"

    def fill(folder):
        (folder / "a").write_text("1")
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="No space left"):
        write_folder(target, fill)
    assert not target.exists()
    write_folder(target, lambda folder: (folder / "b").write_text("2"))
    assert [path.name for path in target.iterdir()] == ["b"]
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_is_not_overwritten(tmp_path):
    write_folder(tmp_path / "global", lambda folder: None)
    with pytest.raises(CheckpointError, match="exists already"):
        write_folder(tmp_path / "global", lambda folder: None)


def test_lines_are_appended_and_read_back(tmp_path):
    path = tmp_path / "lines.jsonl"
    append_lines(path, [{"a": 1}, {"a": math.nan}])
    append_lines(path, [{"a": 3}])
    assert path.read_text() == '{"a": 1}\n{"a": null}\n{"a": 3}\n'
    assert read_lines(path) == [{"a": 1}, {"a": None}, {"a": 3}]


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n{"a": 2')
    assert read_lines(path) == [{"a": 1}]


def test_reading_says_what_is_wrong(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read .*absent.json: No such file"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"cannot read .*bad.json: not JSON") as caught:
        read_json(tmp_path / "bad.json")
    assert json.JSONDecodeError is type(caught.value.__cause__)
    (tmp_path / "bad.json").write_bytes(b'"\xff"')
    with pytest.raises(CheckpointError, match=r"cannot read .*bad.json: not JSON \('utf-8' codec"):
        read_json(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"cannot read .*bad.json: not JSON"):
        read_json(tmp_path / "bad.json")
    (tmp_path / "bad.jsonl").write_text("{}\n3\n")
    with pytest.raises(CheckpointError, match=r"cannot read .*bad.jsonl: a line is no object"):
        read_lines(tmp_path / "bad.jsonl")
