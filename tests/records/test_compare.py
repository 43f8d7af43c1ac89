"""Comparisons of runs, on numbers that can be checked by hand."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pandas as pd
import pytest

import fedsim
from fedsim.core.errors import CheckpointError
from fedsim.records.collect import collect, differences
from fedsim.records.compare import Comparison, compare, interval, pareto, setting
from fedsim.records.render import FORMATS, render, table
from tests.records.made import bank, make_run

T1, T2 = 12.7062047, 4.30265273  # Student's t at 97.5 %, 1 and 2 degrees of freedom


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """fedavg and local at two seeds: bank a gains 0.1 and 0.2, bank b loses 0.04 and 0.02."""
    for seed, (a, b), (a_alone, b_alone) in ((1, (0.8, 0.6), (0.7, 0.64)), (2, (0.9, 0.7), (0.7, 0.72))):
        make_run(tmp_path / f"fedavg-{seed}", "fedavg", seed, {"a": bank(a), "b": bank(b)})
        make_run(tmp_path / f"local-{seed}", "local", seed, {"a": bank(a_alone, 0), "b": bank(b_alone, 0)})
    return tmp_path


def test_from_python(runs: Path) -> None:
    told = fedsim.compare(runs, against="strategy=local")
    assert isinstance(told, Comparison)
    assert list(told.groups["label"]) == ["strategy=fedavg", "strategy=local"]
    assert told.groups["difference"][0] == pytest.approx(((0.7 - 0.67) + (0.8 - 0.71)) / 2)  # seed by seed
    assert fedsim.compare([runs / "fedavg-1"], "accuracy").metric == "accuracy"


def test_interval() -> None:
    mean, width = interval([1.0, 2.0, 3.0, math.nan])
    assert (mean, width) == (2.0, pytest.approx(T2 / math.sqrt(3)))
    assert interval([5.0]) == (5.0, pytest.approx(math.nan, nan_ok=True))
    assert all(math.isnan(value) for value in interval([]))


def test_pareto() -> None:
    costs = pd.DataFrame({"metric": [1, 2, 2, 1, math.nan], "bytes": [3, 1, 2, 3, 0], "epsilon": [math.inf] * 5})
    assert pareto(costs) == [True, True, False, True, False]


def test_a_group_is_summed_up_over_seeds(runs: Path) -> None:
    result = compare(collect([runs])[0])
    assert (result.metric, result.settings) == ("auc", ("strategy",))
    fedavg, local = (row for _, row in result.groups.iterrows())
    assert (fedavg["strategy"], local["strategy"]) == ("fedavg", "local")
    assert (fedavg["seeds"], fedavg["value"]) == (2, pytest.approx(0.75))  # of 0.7 and 0.8: half range 0.05
    assert fedavg["value_pm"] == pytest.approx(T1 * 0.05)
    assert fedavg["gain"] == pytest.approx(0.06)  # of 0.03 and 0.09
    assert fedavg["gain_pm"] == pytest.approx(T1 * 0.03)
    assert (fedavg["losers"], fedavg["compared"]) == (1, 2)
    assert fedavg["worst"] == pytest.approx(0.65)
    assert (fedavg["spread"], fedavg["range"]) == (pytest.approx(0.1), pytest.approx(0.2))
    assert (fedavg["bytes_up"], fedavg["bytes_down"], fedavg["epsilon"]) == (200, 100, math.inf)
    assert local["compared"] == 0
    assert math.isnan(local["gain"])


def test_banks_and_who_loses(runs: Path) -> None:
    result = compare(collect([runs])[0])
    banks = result.banks.set_index(["label", "bank"])
    a, b = banks.loc[("strategy=fedavg", "a")], banks.loc[("strategy=fedavg", "b")]
    assert (a["gain"], a["gain_pm"]) == (pytest.approx(0.15), pytest.approx(T1 * 0.05))
    assert (b["value"], b["alone"], b["gain"]) == (pytest.approx(0.65), pytest.approx(0.68), pytest.approx(-0.03))
    assert "lose by joining, strategy=fedavg: b (-0.030)" in table(result).notes


def test_differences_are_paired_by_seed(runs: Path) -> None:
    make_run(runs / "local-3", "local", 3, {"a": bank(0.9)})  # has no counterpart and so does not count
    result = compare(collect([runs])[0], against=("strategy", "fedavg"))
    fedavg, local = (row for _, row in result.groups.iterrows())
    assert math.isnan(fedavg["difference"])
    assert local["difference"] == pytest.approx(-0.06)  # of 0.67 - 0.7 and 0.71 - 0.8
    assert local["difference_pm"] == pytest.approx(T1 * 0.03)


def test_the_front_is_among_groups_under_the_same_conditions(tmp_path: Path) -> None:
    private = {"kind": "dp_sgd", "noise_multiplier": 1.0}
    for name, strategy, auc, up, epsilon, kind in (
        ("good", "fedavg", 0.9, 300, None, "iid"),
        ("cheap", "flasc", 0.8, 100, None, "iid"),
        ("dominated", "fedprox", 0.8, 200, None, "iid"),
        ("private", "fedprox", 0.7, 300, 8.0, "iid"),
        ("elsewhere", "fedavg", 0.5, 400, None, "size"),
    ):
        partition, privacy = {"kind": kind, "num_banks": 1}, private if epsilon else {"kind": "none"}
        make_run(tmp_path / name, strategy, 1, {"a": bank(auc, up, epsilon)}, partition=partition, privacy=privacy)
    result = compare(collect([tmp_path])[0])
    front = {(row["strategy"], row["privacy"], row["partition"]): row["front"] for _, row in result.groups.iterrows()}
    assert front == {
        ("fedavg", "none", "iid"): True,
        ("flasc", "none", "iid"): True,
        ("fedprox", "none", "iid"): False,
        ("fedprox", "dp_sgd-1.0", "iid"): True,
        ("fedavg", "none", "size"): True,
    }


def test_less_is_better_turns_gain_and_worst(tmp_path: Path) -> None:
    for strategy, a, b in (("fedavg", 0.2, 0.6), ("local", 0.5, 0.5)):
        banks = {name: {**bank(0.5), "nll": value} for name, value in (("a", a), ("b", b))}
        folder = make_run(tmp_path / strategy, strategy, 1, banks)
        summary = json.loads((folder / "summary.json").read_text())
        summary["metrics"] = {"nll": (a + b) / 2}
        (folder / "summary.json").write_text(json.dumps(summary))
    row = compare(collect([tmp_path])[0]).groups.iloc[0]
    assert (row["gain"], row["losers"], row["worst"]) == (pytest.approx(0.1), 1, 0.6)


def test_a_baseline_of_the_run_itself_comes_first(tmp_path: Path) -> None:
    local = {"local": {"banks": {"a": {"auc": 0.6}}}}
    folder = make_run(tmp_path / "one", "fedavg", 1, {"a": bank(0.7)}, baselines=local)
    make_run(tmp_path / "two", "local", 1, {"a": bank(0.1)})
    found, notes = collect([folder.parent])
    assert (found[0].run.run_dir, notes) == (folder, [])
    assert compare(found).groups.iloc[0]["gain"] == pytest.approx(0.1)


def test_what_is_not_counted_is_told(tmp_path: Path) -> None:
    for name, changes in (("a", {}), ("b", {}), ("c", {"status": "interrupted"})):
        make_run(tmp_path / name, "fedavg", 1, {"x": bank(0.5)}, **changes)
    found, notes = collect([tmp_path, tmp_path / "a"])
    assert [one.label for one in found] == ["made"]
    assert notes == [
        f"left out: {tmp_path / 'c'} (interrupted)",
        f"left out: {tmp_path / 'b'} (repeats {tmp_path / 'a'})",
    ]


def test_settings_are_what_differs() -> None:
    scenarios = [
        {"name": "x", "lora": {"r": 8, "lora_alpha": 16}, "strategy": {"kind": "fedprox", "mu": mu}, "seed": seed}
        for mu, seed in ((0.1, 1), (0.2, 2))
    ]
    scenarios[1] = {**scenarios[1], "lora": {"r": 4, "lora_alpha": 16}, "name": "y"}
    assert differences(scenarios) == [
        {"lora.r": "8", "strategy": "fedprox-0.1"},
        {"lora.r": "4", "strategy": "fedprox-0.2"},
    ]


def test_errors(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(CheckpointError, match="no ended run in"):
        collect([empty])
    with pytest.raises(CheckpointError, match="is not a folder"):
        collect([empty / "gone"])
    found = collect([runs])[0]
    with pytest.raises(CheckpointError, match="not all runs have metric 'f1'; known: auc, accuracy"):
        compare(found, "f1")
    with pytest.raises(CheckpointError, match="no run has strategy=x; known: strategy=fedavg, strategy=local"):
        compare(found, against=("strategy", "x"))
    with pytest.raises(CheckpointError, match="expected a setting and its value"):
        setting("strategy")
    assert setting("strategy=a=b") == ("strategy", "a=b")


def test_a_scenario_that_lacks_what_is_compared_is_told(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "fedavg", 1, {"a": bank(0.5)})
    path = folder / "scenario.yaml"
    path.write_text(path.read_text().replace("strategy:", "strategi:"))
    with pytest.raises(CheckpointError, match=r"cannot read .*run/scenario\.yaml: it lacks 'strategy'; is it the one"):
        collect([tmp_path])


def test_every_format(runs: Path) -> None:
    result = compare(collect([runs])[0])
    written = {name: render(result, ["left out: x_y"], name) for name in FORMATS}
    first = next(csv.DictReader(io.StringIO(written["csv"])))
    assert (first["strategy"], float(first["value"])) == ("fedavg", pytest.approx(0.75))
    groups = json.loads(written["json"])["groups"]
    assert (groups[0]["epsilon"], groups[0]["gain"]) == (None, pytest.approx(0.06))
    header, rule, row = written["markdown"].split("\n")[:3]
    assert header.count("|") == rule.count("|") == row.count("|")
    assert row.startswith("| fedavg | 2 | 0.750 ±0.635 | +0.060 ±0.381 | 1/2 | 0.650 | 0.100 | 0.200 | 200 B | 100 B |")
    assert r"fedavg & 2 & 0.750 $\pm$0.635 & +0.060 $\pm$0.381 & 1/2 &" in written["latex"]
    assert r"\begin{tabular}{lrrrrrrrrrr}" in written["latex"]
    assert written["text"].split("\n")[0].split()[:3] == ["strategy", "seeds", "AUC"]
    assert written["text"].endswith("left out: x_y")
