"""Rounds whose checksums are right and whose content is not of a round: edited by hand and signed again, or by a bug.

``test_rounds`` damages files, which their checksums tell; here nothing does but reading them. Whatever a file holds, it
is used or refused by name in one line, and nothing is allocated by a size that it claims.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

import fedsim
from fedsim.core.errors import CheckpointError, FedsimError
from fedsim.core.messages import ServerState
from fedsim.engine.checkpoint import STATE, files_of, pack_tensors, saved_from, unpack_tensors
from fedsim.engine.transport import Link
from fedsim.records.rounds import MANIFEST
from fedsim.records.wal import Log
from tests.calling import Command
from tests.engine.test_checkpoint import state
from tests.faults import toys
from tests.fuzz.conftest import seeds

Files = Mapping[str, bytes]
Damage = Callable[[Files], Iterator[Files]]
VALUES = (None, True, -1, 0, 1, 2.5, 2**63, 10**30, 1e308, float("nan"), "", "x", "é\0", [], [[1]], {}, {"a": 1})
TYPES = ("F64", "F16", "I64", "U8", "BOOL", "C64", "F8_E5M2", "F8_E8M0", "F4", "nix")
SHAPES = (
    [],
    [0],
    [7],
    [2**30],
    [2**40],
    [2**62, 4],
    [2**63, 2**63],
    [0, 2**62, 2**62],
    [2**31, 0, 2**31],
    [-1],
    [1] * 99,
)
LENGTHS = (0, 1, 7, 8, 2**31 - 1, 2**31, 2**40, 2**63 - 1, 2**63, 2**64 - 1)


def whole() -> dict[str, bytes]:
    """The files of a round: frozen adapters, slots of three types, a lossy download's residual, what one bank keeps."""
    links = {
        bank.name: Link({"adapter/q.A": bytes(16)}, {"adapter/q.A": torch.ones(2, 3)}, {"q.A": torch.zeros(2, 3)})
        for bank in state().banks
    }
    return dict(files_of(state(), links, [(1, pack_tensors({"own": torch.ones(2)}))]))


NAMES = tuple(whole())


# ---------------------------------------------------------------------------------------------------------- damages


def cut(files: Files) -> Iterator[Files]:
    """Every file at every length."""
    for name, data in files.items():
        yield from ({**files, name: data[:size]} for size in range(len(data)))


def flipped(files: Files) -> Iterator[Files]:
    """Every bit of every file."""
    for name, data in files.items():
        for place in range(8 * len(data)):
            changed = bytearray(data)
            changed[place // 8] ^= 1 << place % 8
            yield {**files, name: bytes(changed)}


def other_values(files: Files) -> Iterator[Files]:
    """Every place in the JSON of ``state.json`` and of the headers holds something else, or is not there."""
    for name, data in files.items():
        text, body = (data, None) if name == STATE else split(data)
        for changed in edits(json.loads(text), TYPES + SHAPES if body is not None else ()):
            written = json.dumps(changed).encode()
            yield {**files, name: written if body is None else joined(written, body)}


def other_text(files: Files) -> Iterator[Files]:
    """JSON that is not what it seems: keys twice, nothing, two values, nested without end, not UTF-8."""
    for name, data in files.items():
        text, body = (data, None) if name == STATE else split(data)
        twice = (text[:-1] + b"," + text[1:], text.replace(b":", b':0,"x":', 1), text.replace(b"{", b'{"round":1,', 1))
        endless = (b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b'"' + b"a" * 10_000)
        for written in (
            *twice,
            *endless,
            b"",
            b" ",
            text * 2,
            text + b"\0",
            b"\xff\xfe" + text,
            text.decode().encode("utf-16"),
        ):
            yield {**files, name: written if body is None else joined(written, body)}


def lengths(files: Files) -> Iterator[Files]:
    """The header of a file of tensors is as long as never was one, and there is more behind its tensors, or less."""
    for name, data in files.items():
        if name == STATE:
            continue
        right = struct.unpack("<Q", data[:8])[0]
        for length in (*LENGTHS, right - 8, right - 1, right + 1, right + 8, len(data)):
            yield {**files, name: struct.pack("<Q", length) + data[8:]}
        for more in (b"\0", bytes(8), bytes(4096), data):
            yield {**files, name: data + more}


def claims(files: Files) -> Iterator[Files]:
    """One tensor that takes next to nothing in its file, and says that it has any type, shape and place."""
    for name, kind, shape, size in itertools.product(files, ("F32", *TYPES), SHAPES, (0, 4, 2**32, 2**62)):
        if name != STATE:
            header = {"adapter/q.A": {"dtype": kind, "shape": shape, "data_offsets": [0, size]}}
            yield {**files, name: joined(json.dumps(header).encode(), bytes(min(size, 4)))}


def other_files(files: Files) -> Iterator[Files]:
    """A file is not there, is another one, or there is one too many."""
    for name, other in itertools.permutations(files, 2):
        yield {**files, name: files[other]}
        yield {key: data for key, data in files.items() if key not in (name, other)}
    for name in files:
        yield {key: data for key, data in files.items() if key != name}
    for name in ("kept-0002.safetensors", "kept-9999.safetensors", "../x", "notes.txt"):
        yield {**files, name: files["kept-0001.safetensors"]}


DAMAGES = (cut, flipped, other_values, other_text, lengths, claims, other_files)


def edits(value: Any, more: tuple[object, ...]) -> Iterator[Any]:
    for path in paths(value):
        for other in (*VALUES, *more):
            yield edited(value, path, other)
        if path:
            yield edited(value, path, ...)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from paths(item, (*path, key))


def edited(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    """A copy with something else at a place, or without the place."""
    if not path:
        return other
    copy = value.copy()
    if len(path) == 1 and other is ...:
        del copy[path[0]]
    else:
        copy[path[0]] = edited(value[path[0]], path[1:], other)
    return copy


def split(data: bytes) -> tuple[bytes, bytes]:
    """(the JSON of a safetensors file, its tensors)."""
    end = 8 + struct.unpack("<Q", data[:8])[0]
    return data[8:end], data[end:]


def joined(header: bytes, body: bytes) -> bytes:
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + body


# ---------------------------------------------------------------------------------------------------------- reading


def examine(files: Files) -> str:
    """Read the files of a round as a resume does."""
    refusal = ""
    try:
        saved = saved_from(files)
    except CheckpointError as error:
        refusal = str(error)
    if refusal:
        assert "\n" not in refusal
        assert refusal.startswith((*files, *NAMES))
        return "refused"
    require_well_typed(saved.state)
    assert set(saved.kept) | set(saved.links) <= {bank.name for bank in saved.state.banks}
    assert all(unpack_tensors(data) is not None for data in saved.kept.values())
    again = dict(files_of(saved.state, saved.links, ((1, data) for data in saved.kept.values())))
    assert files_equal(saved_from(again).state, saved.state), "what is used can be written and read again"
    return "used"


def require_well_typed(found: ServerState) -> None:
    assert type(found.round) is int
    for adapter in (found.adapter, *found.frozen):
        assert (type(adapter.rank), type(adapter.scaling)) == (int, float)
        assert all(tensor.dtype == torch.float32 for tensor in adapter.tensors.values())


def files_equal(left: ServerState, right: ServerState) -> bool:
    return dict(files_of(left, {}, [])) == dict(files_of(right, {}, []))


def peak_bytes() -> int:
    """The most address space that this process ever had: also what was asked for and never touched."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmPeak"))
    return 1024 * int(line.split()[1])


def test_what_is_whole_is_used() -> None:
    assert examine(whole()) == "used"


@pytest.mark.parametrize("damage", DAMAGES)
def test_some_of_each_damage(damage: Damage) -> None:
    cases = list(damage(whole()))
    for files in Random(3).sample(cases, min(len(cases), 300)):
        examine(files)


def test_nothing_is_allocated_by_a_size_that_is_claimed() -> None:
    before = peak_bytes()
    for files in itertools.chain(claims(whole()), lengths(whole())):
        examine(files)
    assert peak_bytes() - before < 2**26
    torch.empty(2**30)  # 4 GB, of which nothing is touched: the control
    assert peak_bytes() - before > 2**31


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("damage", DAMAGES)
def test_all_of_each_damage(damage: Damage, fuzz_report) -> None:
    with fuzz_report(f"a round's files: {damage.__name__}") as counts:
        for files in damage(whole()):
            counts[examine(files)] += 1
    assert counts["refused"]


# ------------------------------------------------------------------------------------------------------ a whole run


def other_tensors(files: Files) -> Iterator[Files]:
    """Good files of good tensors: one has another type, shape, name or value, or is not there, or is one too many."""
    for name in files.keys() - {STATE}:
        tensors = unpack_tensors(files[name])
        yield {**files, name: pack_tensors({})}
        yield {**files, name: pack_tensors({**tensors, "extra": torch.ones(1)})}
        for key, tensor in tensors.items():
            rest = {other: value for other, value in tensors.items() if other != key}
            yield {**files, name: pack_tensors(rest)}
            yield {**files, name: pack_tensors({**rest, f"{key}x": tensor})}
            yield from ({**files, name: pack_tensors({**rest, key: change(tensor)})} for change in CHANGES)


CHANGES: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    *(partial(torch.Tensor.to, dtype=kind) for kind in (torch.float64, torch.bool, torch.uint16, torch.float8_e5m2)),
    *(
        lambda t: t.reshape(-1),
        lambda t: t.new_zeros(()),
        lambda t: t[:0],
        lambda t: t[:1],
        lambda t: torch.cat([t, t]),
    ),
    *(lambda t: t.T if t.dim() == 2 else t[None], lambda t: t + math.nan, lambda t: t * 3e38 * 10, lambda t: t + 1),
)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy's directory after three of four rounds."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    toys.run(toys.plan(folder, 3))
    return folder


def newest(run: Path) -> dict[str, bytes]:
    (place,) = run.glob("rounds/000003")
    return {path.name: path.read_bytes() for path in sorted(place.iterdir()) if path.name != MANIFEST}


def sign(run: Path, files: Files) -> None:
    """Make these the files of the newest round, as whoever may write to the directory can."""
    place, head, journal = run / "rounds" / "000003", run / "HEAD", run / "journal.wal"
    before = (place / MANIFEST).read_bytes()
    manifest = json.loads(before)
    for name in manifest["files"]:
        (place / name).unlink()
    for name, data in files.items():
        (place / name).write_bytes(data)
    listed = {name: {"size": len(data), "sha256": sha256(data)} for name, data in files.items()}
    after = json.dumps({**manifest, "files": listed}).encode()
    (place / MANIFEST).write_bytes(after)
    head.write_text(head.read_text().replace(sha256(before), sha256(after)))
    records = Log(journal, CheckpointError).records
    journal.unlink()
    again = Log(journal, CheckpointError)
    for record in records:
        again.append(json.loads(json.dumps(record).replace(sha256(before), sha256(after))))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def gone_on(stopped: Path, run: Path, files: Files) -> str:
    """How a run ends whose newest round holds these files."""
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(stopped, run)
    sign(run, files)
    try:
        toys.run(toys.plan(run, 4))
    except FedsimError as error:
        refusal, code = str(error), error.exit_code
    else:
        return "used"
    assert "\n" not in refusal
    if code == CheckpointError.exit_code:
        assert str(run) in refusal
        assert "begin again in another directory" in refusal
        return "exit 6"
    changed = {name for name in files if files[name] != newest(stopped).get(name)}
    assert changed <= KEPT, "nobody but its bank knows what shape that has what it keeps"
    assert re.match(r"round 4, bank \w+ \(seed \d+\): ", refusal)
    return "its bank's work fails"


KEPT = {f"kept-{place:04d}.safetensors" for place in range(3)}


def test_a_round_that_is_signed_again_is_used(stopped: Path, tmp_path: Path) -> None:
    toys.run(toys.plan(tmp_path / "whole", 4))
    assert gone_on(stopped, tmp_path / "run", newest(stopped)) == "used"
    assert json.loads((tmp_path / "run" / "HEAD").read_text())["round"] == 4


def test_the_remedy_that_is_named_is_one(stopped: Path, tmp_path: Path) -> None:
    """Without the round that cannot be used the run comes to the bits of one in which nothing happened."""
    run = tmp_path / "run"
    assert gone_on(stopped, run, {**newest(stopped), STATE: b"{}"}) == "exit 6"
    with pytest.raises(CheckpointError, match=f"remove {run}/rounds/000003 to go on from the round before"):
        toys.run(toys.plan(run, 4))
    shutil.rmtree(run / "rounds" / "000003")
    toys.run(toys.plan(run, 4))
    toys.run(toys.plan(tmp_path / "whole", 4))
    assert toys.hashes(run) == toys.hashes(tmp_path / "whole")
    assert toys.charged(run) == toys.charged(tmp_path / "whole")


def test_runs_go_on_from_some_rounds_that_are_signed_again(stopped: Path, tmp_path: Path) -> None:
    cases = [*other_tensors(newest(stopped)), *other_values(newest(stopped))]
    for files in Random(2).sample(cases, 25):
        gone_on(stopped, tmp_path / "run", files)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("damage", [other_tensors, *DAMAGES])
def test_runs_go_on_from_many_rounds_that_are_signed_again(
    damage: Damage, stopped: Path, tmp_path: Path, fuzz_report
) -> None:
    cases = list(damage(newest(stopped)))
    Random(1).shuffle(cases)
    with fuzz_report(f"a toy's newest round, signed again: {damage.__name__}") as counts:
        for _, files in zip(seeds(len(cases)), cases, strict=False):
            counts[gone_on(stopped, tmp_path / "run", files)] += 1
    assert counts["exit 6"]


# ------------------------------------------------------------------------------------------------- the whole command

SCENARIO = """\
num_rounds: 3
seed: 5
data: {kind: loan_book, num_banks: 2, rows_per_bank: 30}
partition: {kind: by_column, column: bank}
model: {kind: embedded}
lora: {r: 2, target_modules: [q_proj]}
train: {local_steps: 1, batch_size: 4}
privacy: {kind: dp_sgd, noise_multiplier: 1.0, dp_delta: 1e-4}
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_command_says_what_is_wrong_with_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fuzz_report
) -> None:
    """Tensors of a round that the model does not have, or has in another shape."""
    monkeypatch.chdir(tmp_path)
    command = Command(monkeypatch)
    Path("s.yaml").write_text(SCENARIO)
    fedsim.run("s.yaml", out="stopped", inline=True)
    cases = [*other_tensors(newest(Path("stopped"))), {**newest(Path("stopped")), STATE: b"[" * 100_000}]
    with fuzz_report("`fedsim resume`, a newest round that is signed again") as counts:
        for _, files in zip(seeds(len(cases)), Random(4).sample(cases, len(cases)), strict=False):
            shutil.rmtree("run", ignore_errors=True)
            shutil.copytree("stopped", "run")
            sign(Path("run"), files)
            answer = command("resume", "run", "--set", "num_rounds=4", "--inline", "--quiet")
            assert answer.code in (0, 6), answer
            assert not answer.code or (answer.err.count("\n"), answer.out) == (1, ""), answer
            counts[f"exit {answer.code}"] += 1
    assert counts["exit 6"]
