"""Everything a run carries from round to round, as files: safetensors and JSON, nothing that could hold code.

    state.json              round, ranks, scalings, banks as the method sees them, which bank last received what
    server.safetensors      the global adapter, what lies frozen under it, the method's slots
    links.safetensors       what each bank last received and the residuals of a lossy download, equal tensors once
    kept-0003.safetensors   what the bank at that place of the run's order keeps; a bank that keeps nothing has no file

Randomness is derived, never drawn from a stream, so there is no random state to save. The bytes depend on the content
alone: equal states give equal files.

Checksums say that the files are those that were written, not who wrote them: a run directory may come from elsewhere.
So what is read is held against the types above, and nothing is allocated by a size that a file claims.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

import safetensors
import safetensors.torch
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from fedsim.core.adapter import AdapterState, Tensors, factor
from fedsim.core.aligned import aligned
from fedsim.core.errors import CheckpointError
from fedsim.core.messages import BankInfo, ServerState
from fedsim.core.registry import Config
from fedsim.engine.transport import Link

STATE, SERVER, LINKS = "state.json", "server.safetensors", "links.safetensors"


@dataclass(frozen=True, slots=True)
class Saved:
    """A state between two rounds. ``kept`` is by bank, as its pool wrote it: for its bank alone (``keeping``)."""

    state: ServerState
    links: Mapping[str, Link]
    kept: Mapping[str, bytes]


Place = Annotated[int, Field(ge=0)]


class _Outline(Config):
    rank: int = Field(ge=0)
    scaling: float
    names: tuple[str, ...]


class _Bank(Config):
    name: str
    num_examples: int = Field(ge=0)
    rank: int = Field(ge=0)
    scaling: float


class _Links(Config):
    banks: dict[str, tuple[Place, Place, Place]]
    rows: tuple[dict[str, str], ...]


class _State(Config):
    """``state.json``."""

    round: int = Field(ge=0)
    adapter: _Outline
    frozen: tuple[_Outline, ...]
    banks: tuple[_Bank, ...]
    links: _Links


def pack_tensors(tensors: Tensors) -> bytes:
    """One safetensors file."""
    data: bytes = safetensors.torch.save({name: tensor.clone().contiguous() for name, tensor in tensors.items()})
    return data


def unpack_tensors(data: bytes) -> dict[str, Tensor]:
    """The inverse of ``pack_tensors``; CheckpointError when it cannot be."""
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
        return {name: aligned(tensor) for name, tensor in tensors.items()}
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"its tensors cannot be read: {error}") from error
    except (KeyError, RuntimeError) as error:  # a type that torch does not have, an empty shape beyond all integers
        raise CheckpointError(f"its tensors cannot be read: {type(error).__name__}: {error}") from error


def files_of(
    state: ServerState, links: Mapping[str, Link], kept: Iterable[tuple[int, bytes]]
) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every file. ``kept`` is (place of the bank, its bytes) of banks that keep something."""
    shelf = _Shelf()
    wires = {bank: shelf.link(links[bank]) for bank in sorted(links)}
    values = {
        "round": state.round,
        "adapter": _outline(state.adapter),
        "frozen": [_outline(adapter) for adapter in state.frozen],
        "banks": [asdict(bank) for bank in state.banks],
        "links": {"banks": wires, "rows": shelf.rows},
    }
    server = {f"adapter/{name}": tensor for name, tensor in state.adapter.tensors.items()}
    for index, frozen in enumerate(state.frozen):
        server |= {f"frozen/{index}/{name}": tensor for name, tensor in frozen.tensors.items()}
    server |= {f"slots/{name}": tensor for name, tensor in state.slots.items()}
    yield STATE, json.dumps(values, separators=(",", ":"), sort_keys=True).encode()
    yield SERVER, pack_tensors(server)
    yield LINKS, pack_tensors(shelf.tensors)
    for place, data in kept:
        yield _kept_name(place), data


def saved_from(files: Mapping[str, bytes]) -> Saved:
    """The inverse of ``files_of``. CheckpointError, which begins with a file's name, when the files are not of one."""
    values = _state(_file(files, STATE))
    server = _Tensors(SERVER, _file(files, SERVER))
    adapter = server.adapter("adapter/", values.adapter)
    frozen = tuple(server.adapter(f"frozen/{index}/", outline) for index, outline in enumerate(values.frozen))
    slots = server.rest("slots/")
    banks = tuple(BankInfo(**dict(bank)) for bank in values.banks)
    links = _links(values.links, _Tensors(LINKS, _file(files, LINKS)).rest(""))
    places = {_kept_name(place): bank.name for place, bank in enumerate(banks)}
    for name in sorted(files.keys() - places.keys() - {STATE, SERVER, LINKS}):
        raise CheckpointError(f"{name} belongs to none of the {len(banks)} banks")
    kept = {bank: files[name] for name, bank in places.items() if name in files}
    for name in places.keys() & files.keys():
        _Tensors(name, files[name])
    return Saved(ServerState(values.round, adapter, banks, frozen, slots), links, kept)


def require_fits(state: ServerState, first: ServerState) -> None:
    """CheckpointError when a state is not of the run that began with ``first``: of other banks, or of another model.

    A method may change ranks from round to round, and nothing else of an adapter's tensors; it may add slots.
    """
    if [(b.name, b.num_examples) for b in state.banks] != [(b.name, b.num_examples) for b in first.banks]:
        raise CheckpointError("it is of other banks, or of banks with other numbers of rows")
    found, wanted = state.adapter.tensors, first.adapter.tensors
    for name in sorted(found.keys() | wanted.keys()):
        if name not in found or name not in wanted:
            holder = "it has no" if name in wanted else "the model has no"
            raise CheckpointError(f"{holder} tensor {name}")
        if _sizes(name, state.adapter) != _sizes(name, first.adapter):
            left, right = tuple(found[name].shape), tuple(wanted[name].shape)
            raise CheckpointError(f"{name} has shape {left} at rank {state.adapter.rank}, the model's has {right}")
        if not torch.isfinite(found[name]).all():
            raise CheckpointError(f"{name} holds values that are not finite")
    for name, like in first.slots.items():
        slot = state.slots.get(name)
        if slot is None or (slot.shape, slot.dtype) != (like.shape, like.dtype):
            found_as = "is missing" if slot is None else f"has shape {tuple(slot.shape)} and type {slot.dtype}"
            raise CheckpointError(f"slot {name} {found_as}, the method's has {tuple(like.shape)} and {like.dtype}")


def _sizes(name: str, adapter: AdapterState) -> tuple[object, ...]:
    """A tensor's shape, with its rank by name where the tensor has one."""
    shape: list[object] = list(adapter.tensors[name].shape)
    for axis in {"A": (0,), "B": (1,), "R": (0, 1)}.get(factor(name), ()):
        if axis < len(shape) and shape[axis] == adapter.rank:
            shape[axis] = "rank"
    return tuple(shape)


def _file(files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise CheckpointError(f"{name} is missing")
    return files[name]


def _state(data: bytes) -> _State:
    try:
        values = _State.model_validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{STATE} cannot be read: {f'{where}: ' if where else ''}{first['msg']}") from error
    names = [bank.name for bank in values.banks]
    if len(set(names)) < len(names):
        raise CheckpointError(f"{STATE} has two banks of one name")
    if not values.links.banks.keys() <= set(names):
        raise CheckpointError(f"{STATE} links.banks: there is no bank {min(values.links.banks.keys() - set(names))!r}")
    return values


def _kept_name(place: int) -> str:
    return f"kept-{place:04d}.safetensors"


def _outline(adapter: AdapterState) -> dict[str, object]:
    return {"rank": adapter.rank, "scaling": adapter.scaling, "names": list(adapter.tensors)}


class _Tensors:
    """The tensors of one file, each of which is asked for once."""

    def __init__(self, file: str, data: bytes) -> None:
        self._file = file
        try:
            self._left = unpack_tensors(data)
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {error}") from error

    def adapter(self, start: str, outline: _Outline) -> AdapterState:
        tensors = {}
        for name in outline.names:
            tensor = self._left.pop(f"{start}{name}", None)
            if tensor is None or tensor.dtype != torch.float32:
                raise CheckpointError(f"{self._file} has no float32 tensor {start}{name}, which {STATE} lists")
            tensors[name] = tensor
        return AdapterState(tensors, outline.rank, outline.scaling)

    def rest(self, start: str) -> dict[str, Tensor]:
        """All that is left, by its name behind ``start``."""
        for name in self._left:
            if not name.startswith(start):
                raise CheckpointError(f"{self._file} has a tensor {name!r}, which {STATE} does not list")
        return {name.removeprefix(start): tensor for name, tensor in self._left.items()}


class _Shelf:
    """Banks share most of what they received: equal tensors and equal lists of names are written once."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}  # by content
        self.rows: list[dict[str, str]] = []
        self._labels: dict[int, str] = {}  # of a tensor, by identity
        self._places: dict[tuple[tuple[str, str], ...], int] = {}

    def link(self, link: Link) -> list[int]:
        """The rows of a link's digests, of what was received and of its residual."""
        digests = {name: digest.hex() for name, digest in link.digests.items()}
        return [self._row(digests), self._row(self._put(link.received)), self._row(self._put(link.residual))]

    def _put(self, tensors: Tensors) -> dict[str, str]:
        return {name: self._label(tensor) for name, tensor in tensors.items()}

    def _label(self, tensor: Tensor) -> str:
        if id(tensor) not in self._labels:
            label = self._labels[id(tensor)] = _content_label(tensor)
            self.tensors[label] = tensor
        return self._labels[id(tensor)]

    def _row(self, row: dict[str, str]) -> int:
        place = self._places.setdefault(tuple(sorted(row.items())), len(self.rows))
        if place == len(self.rows):
            self.rows.append(row)
        return place


def _content_label(tensor: Tensor) -> str:
    body = tensor.detach().flatten().numpy().tobytes()  # numpy has fewer shapes than a file may claim
    about = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    return hashlib.sha256(about + body).hexdigest()[:32]


def _links(values: _Links, shelf: Tensors) -> dict[str, Link]:
    """Banks that shared a residual share one again: what is equal is encoded once, as before."""
    shared: dict[int, dict[str, Tensor]] = {}

    def tensors(place: int) -> dict[str, Tensor]:
        if place not in shared:
            shared[place] = {name: shelf[label] for name, label in values.rows[place].items()}
        return shared[place]

    def digests(place: int) -> dict[str, bytes]:
        return {name: bytes.fromhex(digest) for name, digest in values.rows[place].items()}

    for label, tensor in shelf.items():
        if tensor.dtype != torch.float32:
            raise CheckpointError(f"{LINKS} {label}: what arrived is float32, not {tensor.dtype}")
        if _content_label(tensor) != label:
            raise CheckpointError(f"{LINKS} {label}: another tensor, of shape {tuple(tensor.shape)}, goes by this name")
    try:
        links = {
            bank: Link(digests(known), tensors(received), tensors(residual))
            for bank, (known, received, residual) in values.banks.items()
        }
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"{STATE} links: {type(error).__name__}: {error}") from error
    for bank, link in links.items():
        if link.digests.keys() != link.received.keys():
            raise CheckpointError(f"{STATE} links.banks: {bank!r} did not receive what it is said to know")
    distinct = {(id(link.received), id(link.residual)): (bank, link) for bank, link in links.items() if link.residual}
    for bank, link in distinct.values():
        for name, tensor in link.residual.items():
            like = link.received.get(name, tensor)
            if tensor.shape != like.shape or not torch.isfinite(tensor).all():
                raise CheckpointError(f"{STATE} links.banks: the residual of {name} for {bank!r} cannot be one")
    return links
