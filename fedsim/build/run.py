"""Run a scenario: the whole of ``fedsim run`` but for what is shown. Files with ``vary`` go on to ``build.grid``."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.build.load import load_grid, load_scenario
from fedsim.build.resume import FRESH, Resume
from fedsim.build.roots import require_inside
from fedsim.core.errors import CheckpointError
from fedsim.core.events import BaselineDone, Event, Finished, Seen, Served, ShadowDone
from fedsim.core.scenario import PATH_KNOBS, Plugin, Scenario
from fedsim.records.grid import ended_summary
from fedsim.records.record import run_folder

if TYPE_CHECKING:
    from fedsim.build.directory import Directory
    from fedsim.build.prepare import Job, Material
    from fedsim.engine.cluster import Cluster
    from fedsim.engine.remote import RemoteDriver


def run(
    path: Path | str,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    inline: bool = False,
    check_nodes: bool = False,
    data_roots: Sequence[Path] = (),
    how: Resume = FRESH,
) -> Generator[Event, None, None]:
    """Events of the scenario's run; the run directory is written as they pass.

    ``inline`` trains in this process without Ray. ``check_nodes`` asks every node of the cluster for the data, the
    model and the run directory's place, and refuses to start where one lacks them; with ``data_roots`` a scenario may
    read nothing outside these folders. ScenarioError, DataError and what can be known of ModelError and ResourceError
    are raised before any other process starts. Closing the iterator ends the run and every process of it.
    """
    runs = load_grid(Path(path), tuple(overrides))
    require_inside(runs, data_roots)
    if runs[0].name:
        from fedsim.build.grid import run_grid

        yield from run_grid(runs, out, inline, check_nodes, how)
    else:
        with runs[0].document.placing():
            yield from run_scenario(runs[0].scenario, out, inline, check_nodes, how)


def resume(
    folder: Path,
    overrides: Sequence[str] = (),
    inline: bool = False,
    data_roots: Sequence[Path] = (),
    how: Resume = FRESH,
) -> Generator[Event, None, None]:
    """Events of a run that goes on in its directory, from its last committed round. CheckpointError when it cannot."""
    file = folder / "scenario.yaml"
    if not file.is_file():
        raise CheckpointError(f"{folder} holds no run that could go on; of a grid start its file again")
    how = replace(how, wanted=True, required=True)
    yield from run(file, overrides, folder, inline, data_roots=data_roots, how=how)


def run_scenario(
    scenario: Scenario,
    out: Path | None = None,
    inline: bool = False,
    check_nodes: bool = False,
    how: Resume = FRESH,
) -> Generator[Event, None, None]:
    """The same for a scenario in memory."""
    folder = out or run_folder(scenario.name, scenario.digest(), datetime.now(UTC))
    summary = _ended(folder, scenario) if how.wanted else None
    if summary is not None:
        yield Finished(str(summary["status"]), summary)
        return
    from fedsim.build.prepare import load_corpus, share_out, tokenise
    from fedsim.build.split import divide, needed

    corpus = load_corpus(scenario)
    division = divide(scenario, corpus, needed(scenario, corpus))
    material = share_out(scenario, division, tokenise(scenario, corpus))
    with closing(Inline() if inline else OnRay(check_nodes)) as place:
        yield from run_on(place, scenario, material, folder, how)


def _ended(folder: Path, scenario: Scenario) -> dict[str, Any] | None:
    """The summary of this very scenario's run, if it came to its end there."""
    summary = ended_summary(folder)
    if summary is None or load_scenario(folder / "scenario.yaml").portable() != scenario.portable():
        return None
    return summary


def run_on(
    place: Inline | OnRay, scenario: Scenario, material: Material, folder: Path, how: Resume = FRESH
) -> Generator[Event, None, None]:
    """A scenario and its baselines, written to ``folder``, in a place that others may use before and after.

    A run that is stopped or fails leaves its committed rounds, from which it can go on, and a summary that says so.
    """
    from fedsim.build.audit import shadow_jobs
    from fedsim.build.directory import claimed
    from fedsim.build.prepare import check_model, make_job
    from fedsim.build.recording import Recording

    check_model(scenario, material)
    main = make_job(scenario, material, str(folder))
    others: dict[str, Job] = {
        name: make_job(baseline(scenario, name), material, str(folder), False) for name in scenario.baselines
    }
    place.begin(main)
    place.check(main, scenario)
    with claimed(folder, how) as directory:
        main = directory.begin(scenario, material, main, how)
        recording = Recording(directory, scenario, material, main)
        shadows = shadow_jobs(scenario, material, str(folder))
        try:
            with closing(_all_events(place, main, shadows, others, directory)) as events:
                for event in events:
                    recording.take(event)
                    if not isinstance(event, Finished | Seen | ShadowDone):
                        yield event
        except BaseException as error:  # also an interrupt, and a caller that wants no more events
            recording.abandon(error)
            raise
        finished = recording.finish()
    yield finished


def _all_events(
    place: Inline | OnRay, main: Job, shadows: Sequence[Job], baselines: Mapping[str, Job], directory: Directory
) -> Generator[Event, None, None]:
    """Those of the run, then one of each shadow run and each baseline that did not come to its end before."""
    yield from place.events(main)
    for number, job in enumerate(shadows, start=1):
        with closing(place.events(job)) as events:
            for event in events:
                if isinstance(event, Served) and event.bank is None:
                    yield ShadowDone(number, event)
    rounds = main.plan.num_rounds
    for name, job in baselines.items():
        summary = directory.baseline(name, rounds)
        if summary is None:
            with closing(place.events(job)) as events:
                (summary,) = [event.summary for event in events if isinstance(event, Finished)]  # to its very end
            directory.add_baseline(name, rounds, summary)
        yield BaselineDone(name, summary)


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
            "secure_aggregation": Plugin(kind="none"),
            "evaluate": scenario.evaluate.model_copy(update={"every": scenario.num_rounds}),
            "baselines": (),
        }
    )


class Inline:
    """Jobs in this process, one after the other."""

    def begin(self, job: Job) -> None:
        """Nothing has to start."""

    def check(self, job: Job, scenario: Scenario) -> None:
        """Whatever resources a job asks for, it gets none."""

    def events(self, job: Job) -> Generator[Event, None, None]:
        from fedsim.engine.driver import Driver
        from fedsim.engine.pool import InlinePool

        yield from Driver(job.plan, InlinePool(job.make_client(), job.actors)).run()

    def close(self) -> None:
        pass


class OnRay:
    """Jobs on one Ray session, one after the other. The session begins with the first; its actors stay for the next.

    Nothing of Ray starts before the run is known to be good.
    """

    def __init__(self, check_nodes: bool = False) -> None:
        self._check_nodes = check_nodes
        self._cluster: Cluster | None = None
        self._driver: RemoteDriver | None = None

    def begin(self, job: Job) -> Cluster:
        """Have Ray start, beside what is left to do here. ResourceError when the job's actors have no room here."""
        from fedsim.engine.cluster import Cluster

        if self._cluster is None:
            self._cluster = Cluster(job.actors)
        return self._cluster

    def check(self, job: Job, scenario: Scenario) -> None:
        """ResourceError when a node lacks files that the run needs."""
        if self._check_nodes:
            from fedsim.engine.nodes import require_everywhere

            self.begin(job).wait(job.actors, job.cohort)
            require_everywhere(paths_of(scenario), Path(job.plan.run_dir))

    def events(self, job: Job) -> Generator[Event, None, None]:
        from fedsim.engine.remote import RemoteDriver

        cluster = self.begin(job)
        actors = cluster.wait(job.actors, job.cohort)
        self._driver = self._driver or RemoteDriver()
        events = self._driver.events(job.plan, job.make_client, actors)
        if not cluster.is_private and job.plan.exports:  # a baseline would overwrite its run's numbers
            from fedsim.engine.gauges import gauged

            events = gauged(events, job.bank_gauges)
        yield from events

    def close(self) -> None:
        try:
            if self._driver is not None:
                self._driver.close()
        finally:
            if self._cluster is not None:
                self._cluster.close()


def paths_of(scenario: Scenario) -> dict[str, str]:
    """The files and folders that a scenario reads, by its keys."""
    found = {f"{entry}.{knob}": getattr(scenario, entry).knobs.get(knob) for entry, knob in PATH_KNOBS}
    return {key: path for key, path in found.items() if isinstance(path, str) and Path(path).is_absolute()}
