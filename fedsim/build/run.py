"""Run a scenario: the whole of ``fedsim run`` but for what is shown. Files with ``vary`` go on to ``build.grid``."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.build.load import load_grid
from fedsim.core.events import BaselineDone, Event, Finished, RoundRow, Served
from fedsim.core.scenario import Plugin, Scenario
from fedsim.records.environment import environment
from fedsim.records.record import RunRecord, run_folder

if TYPE_CHECKING:
    from fedsim.build.prepare import Job, Material
    from fedsim.engine.cluster import Cluster


def run(
    path: Path | str, overrides: Sequence[str] = (), out: Path | None = None, inline: bool = False
) -> Generator[Event, None, None]:
    """Events of the scenario's run; the run directory is written as they pass.

    ``inline`` trains in this process without Ray. ScenarioError, DataError, ModelError and ResourceError are raised
    before any other process starts. Closing the iterator ends the run and every process of it.
    """
    runs = load_grid(Path(path), tuple(overrides))
    if runs[0].name:
        from fedsim.build.grid import run_grid

        yield from run_grid(runs, out, inline)
    else:
        yield from run_scenario(runs[0].scenario, out, inline)


def run_scenario(scenario: Scenario, out: Path | None = None, inline: bool = False) -> Generator[Event, None, None]:
    """The same for a scenario in memory."""
    from fedsim.build.prepare import prepare  # imports torch: not before the scenario is known to be good

    folder = out or run_folder(scenario.name, scenario.digest(), datetime.now(UTC))
    with closing(Inline() if inline else OnRay()) as place:
        yield from run_on(place, scenario, prepare(scenario), folder)


def run_on(place: Inline | OnRay, scenario: Scenario, material: Material, folder: Path) -> Generator[Event, None, None]:
    """A scenario and its baselines, written to ``folder``, in a place that others may use before and after."""
    from fedsim.build.prepare import make_job

    main = make_job(scenario, material, str(folder))
    others = {name: make_job(baseline(scenario, name), material, str(folder)) for name in scenario.baselines}
    record = RunRecord(folder)
    record.begin(scenario.model_dump(mode="json"), environment(scenario.seed))
    with closing(place.events(main)) as events:
        for event in events:
            if isinstance(event, RoundRow):
                record.add_round(event)
            elif isinstance(event, Served):
                export = partial(material.model.export, adapter=event.adapter, frozen=event.frozen, lora=scenario.lora)
                record.add_adapter(export)
            elif isinstance(event, Finished):
                finished = event
                break
            yield event
    baselines: dict[str, Mapping[str, object]] = {}
    for name, job in others.items():
        baselines[name] = next(e.summary for e in place.events(job) if isinstance(e, Finished))
        yield BaselineDone(name, baselines[name])
    summary = {**finished.summary, **({"baselines": baselines} if baselines else {})}
    record.finish(summary)
    yield Finished(finished.status, summary)


def baseline(scenario: Scenario, name: str) -> Scenario:
    """The scenario as it would go without federation: the same rows, steps and seed, evaluated at the end.

    Nothing leaves a bank that trains alone, and pooled training is the ceiling that no bank may reach: neither has a
    privacy mechanism.
    """
    return scenario.model_copy(
        update={
            "strategy": Plugin(kind=name),
            "privacy": Plugin(kind="none"),
            "upload": (),
            "download": (),
            "evaluate": scenario.evaluate.model_copy(update={"every": scenario.num_rounds}),
            "baselines": (),
        }
    )


class Inline:
    """Jobs in this process, one after the other."""

    def events(self, job: Job) -> Generator[Event, None, None]:
        from fedsim.engine.driver import Driver
        from fedsim.engine.pool import InlinePool

        yield from Driver(job.plan, InlinePool(job.make_client(), job.actors)).run()

    def close(self) -> None:
        pass


class OnRay:
    """Jobs on one Ray session, one after the other. The session begins with the first."""

    def __init__(self) -> None:
        self._cluster: Cluster | None = None

    def events(self, job: Job) -> Generator[Event, None, None]:
        from fedsim.engine.cluster import Cluster
        from fedsim.engine.remote import run_on_ray

        if self._cluster is None:
            self._cluster = Cluster(job.actors, job.cohort)
        yield from run_on_ray(job.plan, job.make_client, self._cluster.wait(job.actors, job.cohort))

    def close(self) -> None:
        if self._cluster is not None:
            self._cluster.close()
