"""Everything a run carries from round to round, as files: safetensors and JSON, nothing that could hold code.

    state.json              round, ranks, scalings, banks as the method sees them, which bank last received what
    server.safetensors      the global adapter, what lies frozen under it, the method's slots
    links.safetensors       what each bank last received and the residuals of a lossy download, equal tensors once
    kept-0003.safetensors   what the bank at that place of the run's order keeps; a bank that keeps nothing has no file

Randomness is derived, never drawn from a stream, so there is no random state to save. The bytes depend on the content
alone: equal states give equal files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from fedsim.core.adapter import AdapterState, Tensors
from fedsim.core.errors import CheckpointError
from fedsim.core.messages import BankInfo, ServerState
from fedsim.engine.transport import Link

BANK_FIELDS = tuple(field.name for field in fields(BankInfo))
STATE, SERVER, LINKS = "state.json", "server.safetensors", "links.safetensors"


@dataclass(frozen=True, slots=True)
class Saved:
    """A state between two rounds. ``kept`` is by bank, as its pool wrote it: bytes that nobody looks into."""

    state: ServerState
    links: Mapping[str, Link]
    kept: Mapping[str, bytes]


def pack_tensors(tensors: Tensors) -> bytes:
    """One safetensors file."""
    data: bytes = safetensors.torch.save({name: tensor.clone().contiguous() for name, tensor in tensors.items()})
    return data


def unpack_tensors(data: bytes) -> dict[str, Tensor]:
    """The inverse of ``pack_tensors``; CheckpointError when it cannot be."""
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
        return tensors
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"a checkpoint holds tensors that cannot be read: {error}") from error


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
        "banks": [{name: getattr(bank, name) for name in BANK_FIELDS} for bank in state.banks],
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
    """The inverse of ``files_of``. CheckpointError when the files are not of one."""
    try:
        values: dict[str, Any] = json.loads(files[STATE])
        server, shelf = unpack_tensors(files[SERVER]), unpack_tensors(files[LINKS])
        banks = tuple(BankInfo(**bank) for bank in values["banks"])
        state = ServerState(
            round=values["round"],
            adapter=_adapter(values["adapter"], _under("adapter/", server)),
            banks=banks,
            frozen=tuple(
                _adapter(outline, _under(f"frozen/{index}/", server)) for index, outline in enumerate(values["frozen"])
            ),
            slots=_under("slots/", server),
        )
        links = _links(values["links"], shelf)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise CheckpointError(f"a checkpoint cannot be read: {type(error).__name__}: {error}") from error
    kept = {bank.name: files[name] for place, bank in enumerate(banks) if (name := _kept_name(place)) in files}
    return Saved(state, links, kept)


def _kept_name(place: int) -> str:
    return f"kept-{place:04d}.safetensors"


def _outline(adapter: AdapterState) -> dict[str, object]:
    return {"rank": adapter.rank, "scaling": adapter.scaling, "names": list(adapter.tensors)}


def _adapter(outline: Mapping[str, Any], tensors: Tensors) -> AdapterState:
    return AdapterState({name: tensors[name] for name in outline["names"]}, outline["rank"], outline["scaling"])


def _under(start: str, tensors: Tensors) -> dict[str, Tensor]:
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


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
            body = tensor.detach().contiguous().numpy().tobytes()
            about = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
            label = self._labels[id(tensor)] = hashlib.sha256(about + body).hexdigest()[:32]
            self.tensors[label] = tensor
        return self._labels[id(tensor)]

    def _row(self, row: dict[str, str]) -> int:
        place = self._places.setdefault(tuple(sorted(row.items())), len(self.rows))
        if place == len(self.rows):
            self.rows.append(row)
        return place


def _links(values: Mapping[str, Any], shelf: Tensors) -> dict[str, Link]:
    """Banks that shared a residual share one again: what is equal is encoded once, as before."""
    rows: list[dict[str, str]] = values["rows"]
    shared: dict[int, dict[str, Tensor]] = {}

    def tensors(place: int) -> dict[str, Tensor]:
        if place not in shared:
            shared[place] = {name: shelf[label] for name, label in rows[place].items()}
        return shared[place]

    def digests(place: int) -> dict[str, bytes]:
        return {name: bytes.fromhex(digest) for name, digest in rows[place].items()}

    return {
        bank: Link(digests(known), tensors(received), tensors(residual))
        for bank, (known, received, residual) in values["banks"].items()
    }
