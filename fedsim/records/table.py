"""The closing table of a run, made from its summary: every bank, all of them, the worst, and the baselines.

A bank's metrics are on its own test rows. Those of "all banks" and of a baseline are on everyone's: of the global
model, or the mean over the banks' own models where each has one (local training, personal methods). "all banks" adds
up the bytes and shows the epsilon of the worst bank. ``summary["baselines"]``, when there, holds summaries like the
run's own, by name; a baseline with a model per bank gets a column of its headline metric and a row for the best of
these models. ``summary["best_auc"]``, when there, is the AUC that no model can beat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedsim.core.metrics import METRICS, headline, worse
from fedsim.records.text import UNKNOWN, human_bytes, human_epsilon, human_metric, human_seconds, shorten

WIDTH = 80
MAX_METRICS = 3
MAX_BANKS = 40  # more would bury the totals; all are in the summary
EVERYONE = "everyone_"  # before the name of a metric of a bank's own model: on everyone's test rows

Cells = tuple[str, ...]
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text: the first column is a name, the others are numbers. ``notes`` stand under the table."""

    header: Cells
    sections: tuple[tuple[Cells, ...], ...]  # none is empty
    notes: tuple[str, ...]

    @property
    def widths(self) -> list[int]:
        """Of the columns, in characters."""
        rows = (self.header, *(row for section in self.sections for row in section))
        return [max(map(len, column)) for column in zip(*rows, strict=True)]

    def text(self) -> str:
        """Aligned plain text with a rule between sections."""
        widths = self.widths
        blocks = ["\n".join(aligned(row, widths) for row in section) for section in ((self.header,), *self.sections)]
        rule = "\n" + "-" * (sum(widths) + 2 * (len(widths) - 1)) + "\n"
        return "\n".join([rule.join(blocks), *self.notes])


def aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """One line: the first cell to the left, the others to the right."""
    first, *numbers = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in numbers)]).rstrip()


def closing_table(summary: Values) -> Table:
    """The table of one ended run, at most 80 columns wide."""
    return _fitted(_Closing(summary).table())


class _Closing:
    """A summary on its way to a table."""

    def __init__(self, summary: Values) -> None:
        self.summary, self.banks = summary, summary["banks"]
        self.baselines: Mapping[str, Values] = summary.get("baselines", {})
        self.beside = [name for name, b in self.baselines.items() if any(map(_on_everyone, b["banks"].values()))]
        groups = [summary["metrics"], *self.banks.values()]
        self.shown = [name for name in METRICS if any(name in group for group in groups)][:MAX_METRICS]
        self.headline = headline(self.shown) or ""
        self.promised = summary["epsilon"] is not None

    def table(self) -> Table:
        by_badness = sorted(self.banks, key=lambda bank: _badness(self.banks[bank], self.headline), reverse=True)
        listed = set(by_badness[:MAX_BANKS])
        sections = (
            tuple(self._bank(bank, bank) for bank in self.banks if bank in listed),
            (
                self._all_banks(),
                *(self._bank(f"worst: {bank}", bank) for bank in by_badness[:1] if self._is_scored(bank)),
            ),
            tuple(self._references()),
        )
        titles = (METRICS[name].title for name in self.shown)
        header = ("bank", "train", *titles, *self.beside, *["epsilon"] * self.promised, "up", "down")
        return Table(header, tuple(section for section in sections if section), self._notes(len(listed)))

    def _all_banks(self) -> Cells:
        values = {name: self.summary[name] for name in ("epsilon", "bytes_up", "bytes_down")}
        num_train = sum(bank["num_train"] for bank in self.banks.values())
        return self._row("all banks", {**_of_all(self.summary), **values, "num_train": num_train})

    def _is_scored(self, bank: str) -> bool:
        return _badness(self.banks[bank], self.headline) > -math.inf

    def _bank(self, label: str, bank: str) -> Cells:
        alone = [self.baselines[name]["banks"].get(bank, {}).get(self.headline) for name in self.beside]
        return self._row(label, self.banks[bank], alone)

    def _references(self) -> list[Cells]:
        rows = []
        for name, baseline in self.baselines.items():
            rows.append(self._row(name.replace("_", " "), _of_all(baseline)))
            models = [_on_everyone(bank) for bank in baseline["banks"].values()]
            scored = [model for model in models if _is_known(model.get(self.headline))]
            if scored:
                best = min(scored, key=lambda model: _badness(model, self.headline))
                rows.append(self._row(f"best {name}", best))
        if self.summary.get("best_auc") is not None and "auc" in self.shown:
            rows.append(self._row("best possible", {"auc": self.summary["best_auc"]}))
        return rows

    def _row(self, label: str, values: Values, beside: Sequence[float | None] | None = None) -> Cells:
        up, down = values.get("bytes_up"), values.get("bytes_down")
        return (
            label,
            str(values.get("num_train", UNKNOWN)),
            *(human_metric(values.get(name)) for name in self.shown),
            *map(human_metric, [None] * len(self.beside) if beside is None else beside),
            *[human_epsilon(values.get("epsilon"))] * self.promised,
            UNKNOWN if up is None else human_bytes(up),
            UNKNOWN if down is None else human_bytes(down),
        )

    def _notes(self, num_listed: int) -> tuple[str, ...]:
        summary, left_out = self.summary, len(self.banks) - num_listed
        deltas = sorted({bank["delta"] for bank in self.banks.values() if bank["delta"] is not None})
        rounds = f"{summary['rounds']} round{'' if summary['rounds'] == 1 else 's'}"
        ended = f"{summary['status'].replace('_', ' ')}: {rounds} in {human_seconds(summary['seconds'])}"
        if deltas:
            ended += f"; epsilon at delta {', '.join(f'{delta:g}' for delta in deltas)}"
        audit = audited(summary["audit"], summary.get("epsilon_pld")) if summary.get("audit") else ()
        more = (f"{left_out} better banks are not listed; all are in summary.json",) if left_out else ()
        return (*more, ended, *audit, f"run directory: {summary['run_dir']}")


def audited(audit: Values, epsilon: float | None) -> tuple[str, ...]:
    """What the run's audit found, in words."""
    found, bound = audit["correct"], human_epsilon(audit["epsilon_lower"])
    line = (
        f"audit: {found} of {audit['guesses']} guesses about {audit['canaries']} canaries right: epsilon is at least "
        f"{bound} ({audit['confidence']:.0%} confidence); AUC {audit['auc']:.2f}, "
        f"by chance 0.5 +- {audit['auc_se']:.2f}"
    )
    if epsilon is not None and audit["epsilon_lower"] > epsilon:
        return (f"{line}: MORE than the accountant's {human_epsilon(epsilon)}",)
    return (line,)


def overall(metrics: Values, banks: Sequence[Values]) -> Values:
    """What is shown of all banks: ``metrics``, or the mean over ``banks`` where each has a model of its own.

    Every such model is measured on the same rows, so banks weigh the same; unknown values do not count.
    """
    models = [_on_everyone(bank) for bank in banks]
    if not any(models):
        return metrics
    means = {}
    for name in dict.fromkeys(name for model in models for name in model):
        known = [model[name] for model in models if _is_known(model.get(name))]
        means[name] = math.fsum(known) / len(known) if known else math.nan
    return means


def _of_all(summary: Values) -> Values:
    return overall(summary["metrics"], list(summary["banks"].values()))


def _on_everyone(bank: Values) -> dict[str, Any]:
    """Metrics of a bank's own model on everyone's test rows; empty where banks share one."""
    return {name.removeprefix(EVERYONE): value for name, value in bank.items() if name.startswith(EVERYONE)}


def _is_known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _badness(values: Values, name: str) -> float:
    """Larger for a worse bank; -inf when its metric is not known."""
    value = values.get(name)
    return -math.inf if value is None or math.isnan(value) else worse(name, value)


def _fitted(table: Table) -> Table:
    """The table with long names cut so that it is no wider than a terminal."""
    room = max(12, WIDTH - sum(2 + width for width in table.widths[1:]))
    cut = tuple(tuple((shorten(row[0], room), *row[1:]) for row in section) for section in table.sections)
    return replace(table, sections=cut)
