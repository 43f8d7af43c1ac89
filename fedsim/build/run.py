"""Run a scenario: the whole of ``fedsim run`` but for what is shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.build.load import load_scenario
from fedsim.core.events import BaselineDone, Event, Finished, RoundRow, Served
from fedsim.core.scenario import Plugin, Scenario
from fedsim.records.environment import environment
from fedsim.records.record import RunRecord, run_folder

if TYPE_CHECKING:
    from fedsim.build.prepare import Job


def run(
    path: Path | str, overrides: Sequence[str] = (), out: Path | None = None, inline: bool = False
) -> Iterator[Event]:
    """Events of the scenario's run; the run directory is written as they pass.

    ``inline`` trains in this process without Ray. ScenarioError, DataError, ModelError and ResourceError are raised
    before any other process starts. Closing the iterator ends the run and every process of it.
    """
    yield from run_scenario(load_scenario(Path(path), tuple(overrides)), out, inline)


def run_scenario(scenario: Scenario, out: Path | None = None, inline: bool = False) -> Iterator[Event]:
    """The same for a scenario in memory."""
    from fedsim.build.prepare import make_job, prepare  # imports torch: not before the scenario is known to be good

    folder = out or run_folder(scenario.name, scenario.digest(), datetime.now(UTC))
    material = prepare(scenario)
    main = make_job(scenario, material, str(folder))
    others = {name: make_job(baseline(scenario, name), material, str(folder)) for name in scenario.baselines}
    record = RunRecord(folder)
    record.begin(scenario.model_dump(mode="json"), environment(scenario.seed))
    with closing(_Inline() if inline else _OnRay(main)) as place:
        for event in place.events(main):
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


class _Inline:
    """Jobs in this process, one after the other."""

    def events(self, job: Job) -> Iterator[Event]:
        from fedsim.engine.driver import Driver
        from fedsim.engine.pool import InlinePool

        return Driver(job.plan, InlinePool(job.make_client(), job.actors)).run()

    def close(self) -> None:
        pass


class _OnRay:
    """Jobs on one Ray session, one after the other."""

    def __init__(self, first: Job) -> None:
        from fedsim.engine.cluster import Cluster

        self._cluster = Cluster(first.actors, first.cohort)

    def events(self, job: Job) -> Iterator[Event]:
        from fedsim.engine.remote import run_on_ray

        return run_on_ray(job.plan, job.make_client, self._cluster.wait(job.actors, job.cohort))

    def close(self) -> None:
        self._cluster.close()
