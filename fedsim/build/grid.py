"""The runs of a file with ``vary``: one after the other in one Ray session, each in its own directory.

Several processes may work on one grid: each takes the next run that nobody has ended and nobody is at.

They share the actors and the base model that these hold. Runs with the same data, model and seed stand next to each
other, so that rows are read and tokenised once, and given to banks once per partition. A run that ended before with the
same scenario, wherever in the grid's directory it lies, is not run again; one that was stopped goes on from its last
committed round; one that fails is told about at the end and stops no other.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.build.load import GridRun, load_scenario
from fedsim.build.resume import FRESH, Resume
from fedsim.build.run import Inline, OnRay, run_on
from fedsim.core.errors import FedsimError, LockedError, ScenarioError
from fedsim.core.events import Event, Finished, RunDone, RunElsewhere, RunFailed, Turn
from fedsim.core.latest import Latest
from fedsim.core.scenario import Scenario
from fedsim.records.grid import GridRecord, ended_summary, entry, failed_entry, running_entry
from fedsim.records.record import RUNS

if TYPE_CHECKING:
    from fedsim.build.prepare import Encoded, Material


def run_grid(
    runs: Sequence[GridRun],
    out: Path | None = None,
    inline: bool = False,
    check_nodes: bool = False,
    how: Resume = FRESH,
) -> Iterator[Event]:
    """The events of every run, each between Turn and RunDone, RunFailed or RunElsewhere; Finished at the end of all.

    The directory is ``results/runs/<name>`` unless given: the same for every start, so that a grid goes on where it
    stopped.
    """
    record = GridRecord(out or RUNS / runs[0].scenario.name, runs[0].scenario.name)
    found, shelf = _found(record.folder), Shelf()
    how = replace(how, wanted=True, required=False)
    results: dict[str, dict[str, object]] = {}
    worst = 0
    with closing(Inline() if inline else OnRay(check_nodes)) as place:
        for number, run in enumerate(in_order(runs), start=1):
            folder = _folder_of(run, record.folder, found)
            known = ended_summary(folder)
            yield Turn(number, len(runs), run.name, skipped=known is not None)
            try:
                with run.document.placing():
                    summary = known or (yield from _run(run, folder, shelf, place, how))
            except LockedError as error:
                results[run.name] = running_entry(run.name, run.settings)
                yield RunElsewhere(run.name, str(error))
            except FedsimError as error:
                worst = max(worst, error.exit_code)
                results[run.name] = failed_entry(run.name, run.settings, error)
                yield RunFailed(run.name, str(error))
            else:
                results[run.name] = entry(run.name, run.settings, {**summary, "run_dir": str(folder)})
                yield RunDone(run.name, summary)
            record.write([results[run.name] for run in runs if run.name in results])
    for run in runs:  # what others were at may be done by now
        ended = ended_summary(_folder_of(run, record.folder, found))
        if results[run.name]["status"] == "running" and ended is not None:
            results[run.name] = entry(run.name, run.settings, ended)
    content = record.write([results[run.name] for run in runs])
    yield Finished(str(content["status"]), content, worst)


def in_order(runs: Sequence[GridRun]) -> list[GridRun]:
    """Runs with the same rows next to each other, inside these those with the same base, then the same banks."""
    places: dict[str, int] = {}
    for run in runs:
        for key in _keys(run.scenario):
            places.setdefault(key, len(places))
    return sorted(runs, key=lambda run: [places[key] for key in _keys(run.scenario)])


class Shelf:
    """What one run leaves for the next: rows and banks, as long as runs ask for the same."""

    def __init__(self) -> None:
        self._encoded: Latest[Encoded] = Latest()
        self._material: Latest[Material] = Latest()

    def material(self, scenario: Scenario) -> Material:
        """``prepare(scenario)``, as far as possible from the run before."""
        from fedsim.build.prepare import load_corpus, share_out, tokenise
        from fedsim.build.split import divide, needed

        def encoded() -> Encoded:
            return tokenise(scenario, load_corpus(scenario))

        def make() -> Material:
            rows = self._encoded.get(_rows_key(scenario), encoded)
            return share_out(scenario, divide(scenario, rows.corpus, needed(scenario, rows.corpus)), rows)

        return self._material.get(_banks_key(scenario), make)


def _rows_key(scenario: Scenario) -> str:
    values = scenario.model_dump(mode="json", include={"data", "model", "seed"})
    return json.dumps(values, sort_keys=True)


def _keys(scenario: Scenario) -> tuple[str, str, str]:
    """What is dear to change from run to run, dearest first."""
    rows = _rows_key(scenario)
    return rows, f"{rows} {scenario.lora.model_dump_json()}", _banks_key(scenario)


def _banks_key(scenario: Scenario) -> str:
    values = scenario.model_dump(mode="json", include={"partition", "audit"})
    return json.dumps([_rows_key(scenario), values], sort_keys=True)


def _run(
    run: GridRun, folder: Path, shelf: Shelf, place: Inline | OnRay, how: Resume
) -> Generator[Event, None, Mapping[str, object]]:
    """The events of one run but for its end, which is returned."""
    material = shelf.material(run.scenario)
    with closing(run_on(place, run.scenario, material, folder, how)) as events:
        for event in events:
            if isinstance(event, Finished):
                return event.summary
            yield event
    raise FedsimError(f"{run.name} ended without a summary")


def _folder_of(run: GridRun, folder: Path, found: Mapping[str, Path]) -> Path:
    """Where a run lies or will lie. Where another scenario's run has the name, the digest is put behind it."""
    digest = run.scenario.digest()
    if digest in found:
        return found[digest]
    named = folder / run.name
    return named if _digest_in(named) in (None, digest) else folder / f"{run.name}-{digest[:8]}"


def _found(folder: Path) -> dict[str, Path]:
    """The runs below a folder by the digest of their scenario."""
    folders = sorted(file.parent for file in folder.glob("*/scenario.yaml"))
    return {digest: found for found in folders for digest in [_digest_in(found)] if digest}


def _digest_in(folder: Path) -> str | None:
    """Of the scenario whose run a folder holds: None when it holds none, empty for one that cannot be read any more."""
    file = folder / "scenario.yaml"
    if not file.is_file():
        return None
    try:
        return load_scenario(file).digest()
    except ScenarioError:  # of another version of fedsim
        return ""
