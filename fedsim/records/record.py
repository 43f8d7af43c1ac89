"""The run directory: what a run leaves behind, readable without fedsim.

    scenario.yaml      the scenario as it was resolved; ``fedsim run`` takes it as it is
    environment.json   versions, machine, seed, commit
    split.json         which bank holds what: label counts, distances (fedsim.data.skew says which), and the rows
                       themselves, by which ``partition: {kind: file}`` gives other runs the same banks
    rounds.jsonl       one line per round, written when the round is over
    banks.jsonl        one line per bank and round; after round 0 only of banks that took part, were evaluated or were
                       charged
    timeline.jsonl     who trained which bank when, one line per bank and round; of no weight for any result
    failures.jsonl     one line per bank and attempt that failed, with the actor's traceback; there if any did
    summary.json       the object that ``fedsim run --format json`` prints; there once the run has ended
    adapters/global/   the trained adapter as a PEFT folder
    adapters/<bank>/   every bank's own, where the method gives it one; summary.json says which folder is whose

What a run needs to go on after a crash lies beside it (``fedsim.engine.store``): LOCK, HEAD, rounds/, journal.wal and
ledger.wal. All files above but scenario.yaml follow from it, and a resumed run writes them again.

A crash leaves whole lines and whole files. NaN and infinity (an AUC of one class, epsilon without noise) are null.
"""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path

from fedsim.core.errors import CheckpointError
from fedsim.core.events import RoundRow
from fedsim.records.files import append_lines, remove, to_json, write_atomically, write_folder

SCHEMA_VERSION = 1  # of a line in rounds.jsonl and banks.jsonl
RUNS = Path("results/runs")
SCENARIO, GLOBAL = "scenario.yaml", "adapters/global"
PREAMBLE = ("LOCK", SCENARIO, "environment.json", "split.json", "rounds.jsonl", "banks.jsonl", "journal.wal")
# ... is what a run may leave that ends before its first write that counts: the next one starts as if it were not there
MAX_SLUG = 60  # characters of a bank's name in that of a folder


def run_folder(name: str, digest: str, now: datetime, runs: Path = RUNS) -> Path:
    """Where a run goes unless told otherwise: ``<runs>/<name>-<UTC time>-<first 8 digits of the digest>``."""
    return runs / f"{name}-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digest[:8]}"


def adapter_places(banks: Sequence[str]) -> dict[str, str]:
    """Where each bank's own adapter goes, ``adapters/credit-agricole``: no name leads out of the run directory.

    Names that differ by what a folder's name leaves out are told apart by a number, in the order of the banks.
    """
    places: dict[str, str] = {}
    taken = {GLOBAL}
    for bank in banks:
        plain = unicodedata.normalize("NFKD", bank).encode("ascii", "ignore").decode().lower()
        slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:MAX_SLUG].rstrip("-") or "bank"
        tries = chain([slug], (f"{slug}-{number}" for number in count(2)))
        places[bank] = next(place for place in map("adapters/{}".format, tries) if place not in taken)
        taken.add(places[bank])
    return places


def make_folder(folder: Path) -> None:
    """Make a run directory, if there is none. CheckpointError when it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make run directory {folder}: {error.strerror}; choose another") from error


class RunRecord:
    """Writes one run directory. Every method raises CheckpointError when the disk refuses."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is this run's own; it is made where there is none."""
        make_folder(folder)
        self.folder = folder

    def begin(self, scenario: Mapping[str, object], environment: Mapping[str, object]) -> None:
        """Write what is known before the first round. ``scenario`` is plain data: mappings, lists, text, numbers."""
        leftovers = ("adapters", "summary.json", "failures.jsonl")
        remove(*(self.folder / name for name in leftovers))  # of a run that now goes on
        write_atomically(self.folder / SCENARIO, _yaml(scenario))
        write_atomically(self.folder / "environment.json", to_json(environment, indent=2) + "\n")
        for name in ("rounds.jsonl", "banks.jsonl"):
            write_atomically(self.folder / name, "")

    def add_split(self, split: Mapping[str, object]) -> None:
        """Write which bank holds what."""
        write_atomically(self.folder / "split.json", to_json(split) + "\n")

    def add_round(self, row: RoundRow) -> None:
        """Append a finished round: its banks first, so that a round that is listed has all its banks."""
        version = {"schema_version": SCHEMA_VERSION}
        append_lines(self.folder / "banks.jsonl", [version | asdict(bank) for bank in row.banks])
        values = asdict(replace(row, banks=()))
        del values["banks"]
        append_lines(self.folder / "rounds.jsonl", [version | values])

    def add_adapter(self, export: Callable[[Path], None], place: str = GLOBAL) -> None:
        """Let ``export`` write a PEFT folder; it appears at ``place`` in the run directory when it is complete."""
        write_folder(self.folder / place, export)

    def finish(self, summary: Mapping[str, object]) -> None:
        """Write the summary: from here on the run counts as ended."""
        write_atomically(self.folder / "summary.json", to_json(summary, indent=2) + "\n")


def _yaml(values: Mapping[str, object]) -> str:
    """YAML 1.2 in the order given, without the anchors that a scenario may not hold."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 120
    stream = io.StringIO()
    yaml.dump(json.loads(json.dumps(values, allow_nan=False)), stream)  # a copy in which no object occurs twice
    return stream.getvalue()
