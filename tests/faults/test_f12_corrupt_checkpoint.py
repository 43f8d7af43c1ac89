"""F12, F13: damaged rounds are found before they are used; the run goes back one round and comes to the same bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim.core.errors import CheckpointError
from fedsim.core.events import Started
from fedsim.records import rounds
from fedsim.records.disk import Disk
from tests.faults import toys

NEWEST = "rounds/000003"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


def edit(path: Path) -> None:
    manifest = json.loads(path.read_text())
    manifest["files"]["state.json"]["size"] += 1
    path.write_text(json.dumps(manifest))


DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "flipped byte": ("server.safetensors", flip, f"{NEWEST}/server.safetensors is damaged (SHA-256 differs)"),
    "truncated": ("links.safetensors", lambda path: path.write_bytes(path.read_bytes()[:40]), "has 40 bytes instead"),
    "empty": ("state.json", lambda path: path.write_bytes(b""), f"{NEWEST}/state.json has 0 bytes"),
    "missing": ("kept-0001.safetensors", Path.unlink, f"{NEWEST}/kept-0001.safetensors is missing"),
    "extra": ("other.bin", lambda path: path.write_bytes(b"1"), f"{NEWEST}/other.bin does not belong there"),
    "manifest edited": ("MANIFEST.json", edit, f"{NEWEST}/MANIFEST.json is not the one that was committed"),
    "manifest missing": ("MANIFEST.json", Path.unlink, f"{NEWEST}/MANIFEST.json is missing"),
    "head garbage": ("../../HEAD", lambda path: path.write_bytes(b"\0\xff"), "HEAD is not readable"),
    "head missing": ("../../HEAD", Path.unlink, "HEAD is missing"),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ref")
    toys.run(toys.plan(folder))
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_round_before_takes_its_place(tmp_path: Path, reference: Path, damage: str) -> None:
    toys.run(toys.plan(tmp_path))
    name, spoil, told = DAMAGES[damage]
    spoil(tmp_path / NEWEST / name)
    started = toys.run(toys.plan(tmp_path))[0]
    assert isinstance(started, Started)
    assert any(told in note for note in started.notes), started.notes
    assert toys.hashes(tmp_path) == toys.hashes(reference)
    assert toys.charged(tmp_path) == toys.charged(reference), "the same bits again cost nothing"


def test_without_fallback_it_is_refused(tmp_path: Path) -> None:
    toys.run(toys.plan(tmp_path))
    flip(tmp_path / NEWEST / "server.safetensors")
    before = listing(tmp_path)
    with pytest.raises(CheckpointError, match=r"server\.safetensors is damaged") as caught:
        toys.run(toys.plan(tmp_path, fallback=False))
    assert caught.value.exit_code == 6
    assert listing(tmp_path) == before


def test_when_no_round_is_whole_nothing_is_touched(tmp_path: Path) -> None:
    toys.run(toys.plan(tmp_path))
    for folder in (tmp_path / "rounds").iterdir():
        flip(folder / "server.safetensors")
    before = listing(tmp_path)
    told = r"no committed round is whole .*nothing was changed or deleted"
    with pytest.raises(CheckpointError, match=told) as caught:
        toys.run(toys.plan(tmp_path))
    assert caught.value.exit_code == 6
    assert listing(tmp_path) == before


def test_a_newer_format_is_not_guessed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "FORMAT", 2)
    toys.run(toys.plan(tmp_path, num_rounds=1))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="has format 2, this fedsim reads 1: upgrade"):
        toys.run(toys.plan(tmp_path, num_rounds=1))


def test_control_without_the_checksum_a_flipped_byte_reaches_the_bits(
    tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys.run(toys.plan(tmp_path, num_rounds=2))
    flip(tmp_path / "rounds/000002/server.safetensors")

    def trusting(self: rounds.Rounds, name: str, file: str, entry: object, there: set[str]) -> bytes:
        return Disk().read(self.folder / "rounds" / name / file)

    monkeypatch.setattr(rounds.Rounds, "_checked", trusting)
    toys.run(toys.plan(tmp_path))
    assert toys.hashes(tmp_path) != toys.hashes(reference)


def listing(folder: Path) -> dict[str, bytes]:
    """All but the lock, which every start takes."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "LOCK"}
