"""The runs of a file with ``vary``: one after the other in one Ray session, each in its own directory.

They share the actors and the base model that these hold. Runs with the same data, model and seed stand next to each
other, so that rows are read and tokenised once, and given to banks once per partition. A run that ended before with the
same scenario, wherever in the grid's directory it lies, is not run again; one that fails is told about at the end and
stops no other.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.build.load import GridRun, load_scenario
from fedsim.build.run import Inline, OnRay, run_on
from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.events import Event, Finished, RunDone, RunFailed, Turn
from fedsim.core.latest import Latest
from fedsim.core.scenario import Scenario
from fedsim.records.grid import GridRecord, ended_summary, entry, failed_entry
from fedsim.records.record import RUNS

if TYPE_CHECKING:
    from fedsim.build.prepare import Encoded, Material


def run_grid(
    runs: Sequence[GridRun], out: Path | None = None, inline: bool = False, check_nodes: bool = False
) -> Iterator[Event]:
    """The events of every run, each between Turn and RunDone or RunFailed; Finished at the end of all.

    The directory is ``results/runs/<name>`` unless given: the same for every start, so that a grid goes on where it
    stopped.
    """
    record = GridRecord(out or RUNS / runs[0].scenario.name, runs[0].scenario.name)
    done, shelf = _ended(record.folder), Shelf()
    results: dict[str, dict[str, object]] = {}
    worst = 0
    with closing(Inline() if inline else OnRay(check_nodes)) as place:
        for number, run in enumerate(in_order(runs), start=1):
            known = done.get(run.scenario.digest())
            yield Turn(number, len(runs), run.name, skipped=known is not None)
            try:
                with run.document.placing():
                    summary = known or (yield from _run(run, record, shelf, place))
            except FedsimError as error:
                worst = max(worst, error.exit_code)
                results[run.name] = failed_entry(run.name, run.settings, error)
                yield RunFailed(run.name, str(error))
            else:
                results[run.name] = entry(run.name, run.settings, summary)
                yield RunDone(run.name, summary)
            content = record.write([results[run.name] for run in runs if run.name in results])
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
        from fedsim.build.prepare import read, share_out

        def make() -> Material:
            return share_out(scenario, self._encoded.get(_rows_key(scenario), lambda: read(scenario)))

        return self._material.get(_banks_key(scenario), make)


def _rows_key(scenario: Scenario) -> str:
    values = scenario.model_dump(mode="json", include={"data", "model", "seed"})
    return json.dumps(values, sort_keys=True)


def _keys(scenario: Scenario) -> tuple[str, str, str]:
    """What is dear to change from run to run, dearest first."""
    rows = _rows_key(scenario)
    return rows, f"{rows} {scenario.lora.model_dump_json()}", _banks_key(scenario)


def _banks_key(scenario: Scenario) -> str:
    return json.dumps([_rows_key(scenario), scenario.partition.model_dump(mode="json")], sort_keys=True)


def _run(
    run: GridRun, record: GridRecord, shelf: Shelf, place: Inline | OnRay
) -> Generator[Event, None, Mapping[str, object]]:
    """The events of one run but for its end, which is returned."""
    material = shelf.material(run.scenario)
    folder = record.folder_of(run.name, run.scenario.digest())
    with closing(run_on(place, run.scenario, material, folder)) as events:
        for event in events:
            if isinstance(event, Finished):
                return event.summary
            yield event
    raise FedsimError(f"{run.name} ended without a summary")


def _ended(folder: Path) -> dict[str, dict[str, Any]]:
    """Summaries of the runs below a folder that came to their end, by the digest of their scenario."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*/scenario.yaml")):
        summary = ended_summary(path.parent)
        try:
            digest = load_scenario(path).digest()
        except ScenarioError:  # of another version of fedsim
            continue
        if summary is not None:
            found[digest] = summary | {"run_dir": str(path.parent)}
    return found
