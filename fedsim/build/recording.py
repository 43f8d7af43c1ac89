"""A run on its way into its directory: rows and adapters as they pass, and a summary however it ends."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from fedsim.build.audit import Auditor
from fedsim.build.directory import Directory
from fedsim.build.inspect import split_of
from fedsim.build.prepare import Job, Material, best_auc
from fedsim.core.errors import CheckpointError
from fedsim.core.events import BankDone, BaselineDone, Event, Failed, Finished, RoundRow, Served
from fedsim.core.scenario import Scenario
from fedsim.data.saved import saved
from fedsim.records.environment import environment
from fedsim.records.failures import add_failure
from fedsim.records.record import GLOBAL, RunRecord, adapter_places
from fedsim.records.summary import Summary
from fedsim.records.timeline import add_work


class Recording:
    """Writes the directory of one run. CheckpointError when the disk refuses, or when another process has taken over.

    A resumed run tells its committed rounds again, so its tables are written anew.
    """

    def __init__(self, directory: Directory, scenario: Scenario, material: Material, job: Job) -> None:
        plan = job.plan
        self._directory, self._scenario, self._material = directory, scenario, material
        self._best_auc = best_auc(scenario, material, plan.banks)
        self._places = adapter_places([bank.name for bank in plan.banks]) if plan.rule.personal else {}
        self._so_far, self._start = Summary(plan.started()), time.perf_counter()
        self._end: Mapping[str, object] | None = None
        self._baselines: dict[str, Mapping[str, object]] = {}
        self._auditor = Auditor.of(scenario, material, job)
        self._done: list[BankDone] = []  # of the round that goes on
        self._record = RunRecord(directory.folder)
        self._record.begin(scenario.model_dump(mode="json"), environment(scenario.seed))
        told = split_of(scenario, material.corpus, material.banks, material.embeddings)
        self._record.add_split({**told, **saved(material.corpus, material.banks)})

    def take(self, event: Event) -> None:
        """Write what an event brings."""
        self._directory.fence()
        if self._auditor is not None:
            self._auditor.take(event)
        if isinstance(event, BankDone):
            self._done.append(event)
        elif isinstance(event, RoundRow):
            add_work(self._record.folder, self._done)
            self._done.clear()
            self._record.add_round(event)
            self._so_far.add(event)
        elif isinstance(event, Failed):
            add_failure(self._record.folder, event)
        elif isinstance(event, Served):
            lora = self._scenario.lora
            export = partial(self._material.model.export, adapter=event.adapter, frozen=event.frozen, lora=lora)
            self._record.add_adapter(export, GLOBAL if event.bank is None else self._places[event.bank])
        elif isinstance(event, BaselineDone):
            self._baselines[event.name] = event.summary
        elif isinstance(event, Finished):
            self._end = event.summary

    def finish(self) -> Finished:
        """Write the summary of a run that came to its end."""
        summary = self._summary()
        if self._auditor is not None:
            summary["audit"] = self._auditor.result()
        self._record.finish(summary)
        return Finished(str(summary["status"]), summary)

    def abandon(self, error: BaseException) -> None:
        """Write the summary of a run that did not: what is known of it, and whether it failed or was stopped."""
        told = {"status": "failed", "error": str(error)} if isinstance(error, Exception) else {"status": "interrupted"}
        with suppress(CheckpointError):  # the disk is full, or the directory another's: what went wrong first is told
            self._directory.fence()
            self._record.finish({**self._summary(), **told})

    def _summary(self) -> dict[str, object]:
        summary = dict(self._end or self._so_far.result("interrupted", time.perf_counter() - self._start))
        if self._best_auc is not None:
            summary["best_auc"] = self._best_auc
        if self._baselines:
            summary["baselines"] = self._baselines
        if self._places and self._end:
            summary["adapters"] = self._places
        if not self._directory.same_bits:
            summary["bit_identity"] = "not claimed"
        return summary
