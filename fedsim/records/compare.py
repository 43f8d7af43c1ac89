"""What runs say together: means over seeds with intervals, who gains and who loses by joining, and what it costs.

A group is the runs that differ in the seed only. Intervals are Student's t at 95 % over seeds. Differences are taken
within a seed before they are averaged, so that what a seed makes easy or hard for everyone cancels. A bank's gain is
its metric on its own test rows minus that of training alone, with the sign turned for metrics of which less is better:
positive is good for the bank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedsim.core.errors import CheckpointError
from fedsim.core.metrics import METRICS, headline
from fedsim.records.collect import Found
from fedsim.records.table import overall

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95
CONDITIONS = ("data", "partition")  # what a federation finds; everything else it chooses
FREE = ("strategy", "upload", "download", "privacy")  # in which training alone may differ from the run it is held to


@dataclass(frozen=True)
class Comparison:
    """``groups`` has one row per group, ``banks`` one per group and bank; both begin with the columns of settings."""

    metric: str
    settings: tuple[str, ...]
    groups: pd.DataFrame
    banks: pd.DataFrame


def compare(found: Sequence[Found], metric: str | None = None, against: tuple[str, str] | None = None) -> Comparison:
    """Compare by a metric (default: the headline of those that all runs have).

    ``against`` is a setting and its value, ("strategy", "fedavg"): every group is also held to the one that has this
    value and is else the same. CheckpointError when the metric or the setting is not there.
    """
    chosen = _metric([_metrics(one) for one in found], metric)
    settings = tuple(found[0].settings)
    if against and not any(one.settings.get(against[0]) == against[1] for one in found):
        known = dict.fromkeys(f"{key}={value}" for one in found for key, value in one.settings.items())
        raise CheckpointError(f"no run has {against[0]}={against[1]}; known: {', '.join(known) or 'no settings'}")
    runs = runs_table(found, chosen)
    banks = banks_table(found, chosen)
    return Comparison(chosen, settings, groups_table(runs, banks, settings, chosen, against), by_bank(banks, settings))


def setting(text: str | None) -> tuple[str, str] | None:
    """``strategy=fedavg`` as (key, value). CheckpointError when it has no equals sign."""
    if text is None:
        return None
    key, equals, value = text.partition("=")
    if not equals:
        raise CheckpointError(f"expected a setting and its value, like strategy=fedavg (got {text!r})")
    return key, value


def runs_table(found: Sequence[Found], metric: str) -> pd.DataFrame:
    """One row per run: settings, seed, value (on everyone's rows), epsilon (inf: no promise), bytes, seconds."""
    import pandas as pd

    rows = []
    for one in found:
        summary = one.run.summary
        epsilon = summary["epsilon"]
        rows.append(
            {
                **one.settings,
                "label": one.label,
                "seed": one.seed,
                "value": _number(_metrics(one).get(metric)),
                "epsilon": math.inf if epsilon is None else epsilon,
                "bytes_up": summary["bytes_up"],
                "bytes_down": summary["bytes_down"],
                "seconds": summary["seconds"],
            }
        )
    return pd.DataFrame(rows)


def banks_table(found: Sequence[Found], metric: str) -> pd.DataFrame:
    """One row per run and bank: settings, seed, bank, value on its own rows, alone, gain (NaN where not known)."""
    import pandas as pd

    sign = -1.0 if METRICS[metric].lower_is_better else 1.0
    rows = []
    for one in found:
        alone = training_alone(one, found)
        for name, bank in one.run.summary["banks"].items():
            value, its = _number(bank.get(metric)), _number(alone.get(name, {}).get(metric))
            told = {"label": one.label, "seed": one.seed, "bank": name, "value": value, "alone": its}
            rows.append({**one.settings, **told, "gain": sign * (value - its), "epsilon": _number(bank["epsilon"])})
    return pd.DataFrame(rows)


def training_alone(one: Found, found: Iterable[Found]) -> Mapping[str, Mapping[str, Any]]:
    """The banks of the local baseline of a run, or of the closest run with strategy local; empty without one."""
    if one.scenario["strategy"]["kind"] == "local":
        return {}
    baselines = one.run.summary.get("baselines", {})
    if "local" in baselines:
        return _banks(baselines["local"])
    bound = {key: value for key, value in one.settings.items() if key not in FREE}
    candidates = [
        other
        for other in found
        if other.scenario["strategy"]["kind"] == "local"
        and other.seed == one.seed
        and all(other.settings[key] == value for key, value in bound.items())
    ]
    if not candidates:
        return {}
    closest = max(candidates, key=lambda other: sum(other.settings[key] == one.settings[key] for key in one.settings))
    return _banks(closest.run.summary)


def _banks(summary: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    banks: Mapping[str, Mapping[str, Any]] = summary["banks"]
    return banks


def interval(values: Iterable[float]) -> tuple[float, float]:
    """(mean, half width of its 95 % interval) of the known values; the width is NaN of fewer than two."""
    import numpy as np
    from scipy.special import stdtrit

    known = np.array([value for value in values if not math.isnan(value)])
    if len(known) == 0:
        return math.nan, math.nan
    if len(known) == 1:
        return float(known[0]), math.nan
    factor = stdtrit(len(known) - 1, 0.5 + CONFIDENCE / 2)
    return float(known.mean()), float(factor * known.std(ddof=1) / math.sqrt(len(known)))


def groups_table(
    runs: pd.DataFrame, banks: pd.DataFrame, settings: Sequence[str], metric: str, against: tuple[str, str] | None
) -> pd.DataFrame:
    """One row per group, in order of appearance; ``*_pm`` is the half width of a 95 % interval.

    worst is the worst bank's value, spread the standard deviation over banks, range best minus worst bank: each per
    seed, then averaged. losers are the banks whose mean gain is negative, out of ``compared``. front: no group under
    the same conditions is at least as good in metric, bytes and epsilon and better in one.
    """
    import pandas as pd

    rows = []
    for label, group in runs.groupby("label", sort=False):
        own = banks[banks["label"] == label]
        mean, width = interval(group["value"])
        row = {key: group.iloc[0][key] for key in settings}
        row |= {"label": label, "seeds": len(group), "value": mean, "value_pm": width}
        row |= _over_banks(own, metric)
        if against is not None:
            row["difference"], row["difference_pm"] = interval(_differences(group, runs, settings, against))
        row["epsilon"] = group["epsilon"].max()
        row |= {name: group[name].mean() for name in ("bytes_up", "bytes_down", "seconds")}
        rows.append(row)
    table = pd.DataFrame(rows)
    sign = 1.0 if METRICS[metric].lower_is_better else -1.0
    costs = pd.DataFrame(
        {"metric": sign * table["value"], "bytes": table["bytes_up"] + table["bytes_down"], "epsilon": table["epsilon"]}
    )
    under = [key for key in settings if key.partition(".")[0] in CONDITIONS]
    table["front"] = False
    parts = [part.index for _, part in table.groupby(under, sort=False)] if under else [table.index]
    for part in parts:
        table.loc[part, "front"] = pareto(costs.loc[part])
    return table


def _over_banks(own: pd.DataFrame, metric: str) -> dict[str, Any]:
    """What a group's banks say: ``own`` has a row per seed and bank."""
    by_seed = own.groupby("seed")
    best, worst = by_seed["value"].max(), by_seed["value"].min()
    if METRICS[metric].lower_is_better:
        best, worst = worst, best
    gain, width = interval(by_seed["gain"].mean())
    by_name = own.groupby("bank")["gain"].mean().dropna()
    return {
        "gain": gain,
        "gain_pm": width,
        "losers": int((by_name < 0).sum()),
        "compared": len(by_name),
        "worst": worst.mean(),
        "spread": by_seed["value"].std(ddof=0).mean(),
        "range": (best - worst).abs().mean(),
    }


def _differences(
    group: pd.DataFrame, runs: pd.DataFrame, settings: Sequence[str], against: tuple[str, str]
) -> list[float]:
    """Value minus that of the counterpart with the same seed, of the runs that have one."""
    key, value = against
    if group.iloc[0][key] == value:
        return []
    same = runs[key] == value
    for other in settings:
        if other != key:
            same &= runs[other] == group.iloc[0][other]
    theirs = dict(zip(runs.loc[same, "seed"], runs.loc[same, "value"], strict=True))
    mine = zip(group["seed"], group["value"], strict=True)
    return [own - theirs[seed] for seed, own in mine if seed in theirs]


def by_bank(banks: pd.DataFrame, settings: Sequence[str]) -> pd.DataFrame:
    """One row per group and bank: mean value and gain over seeds with the half widths of their intervals."""
    import pandas as pd

    rows = []
    for (label, bank), part in banks.groupby(["label", "bank"], sort=False):
        value, value_pm = interval(part["value"])
        gain, gain_pm = interval(part["gain"])
        row = {key: part.iloc[0][key] for key in settings} | {"label": label, "bank": bank, "seeds": len(part)}
        row |= {"value": value, "value_pm": value_pm, "alone": interval(part["alone"])[0]}
        rows.append(row | {"gain": gain, "gain_pm": gain_pm, "epsilon": part["epsilon"].max()})
    return pd.DataFrame(rows)


def pareto(costs: pd.DataFrame) -> list[bool]:
    """Of each row, whether no other is at least as low in every column and lower in one. With a NaN it never is."""
    import numpy as np

    values = costs.to_numpy(dtype=float)
    front = []
    for row in values:
        dominated = bool(((values <= row).all(axis=1) & (values < row).any(axis=1)).any())
        front.append(not dominated and not np.isnan(row).any())
    return front


def _metrics(one: Found) -> Mapping[str, Any]:
    summary = one.run.summary
    return overall(summary["metrics"], list(summary["banks"].values()))


def _metric(metrics: Sequence[Mapping[str, Any]], wanted: str | None) -> str:
    known = [name for name in METRICS if all(name in one for one in metrics)]
    chosen = wanted or headline(known)
    if chosen is None or chosen not in known:
        missing = f"not all runs have metric {wanted!r}" if wanted else "the runs have no metric in common"
        raise CheckpointError(f"{missing}; known: {', '.join(known) or 'none'}")
    return chosen


def _number(value: float | None) -> float:
    return math.nan if value is None else value
