"""Ways to break what the files of a round hold, one place after the other; the files are by name.

Nothing is drawn: each way is all of its cases, in the same order every time.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from fedsim.engine.checkpoint import STATE, pack_tensors, unpack_tensors

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
        for written in texts(text):
            yield {**files, name: written if body is None else joined(written, body)}


def texts(text: bytes) -> Iterator[bytes]:
    """JSON of one object, that is not what it seems."""
    yield from (text[:-1] + b"," + text[1:], text.replace(b":", b':0,"x":', 1), text.replace(b"{", b'{"round":1,', 1))
    yield from (b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b'"' + b"a" * 10_000, b'{"round": 1e999}')
    yield from (b"", b" ", text * 2, text + b"\0", b"\xff\xfe" + text, text.decode().encode("utf-16"))


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
