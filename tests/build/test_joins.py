"""Banks that join late: from which round on, who is drawn, and who pays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedsim.build.joins import joins_of, told_of_joins
from fedsim.build.load import check, load_scenario
from fedsim.build.plan import plan
from fedsim.build.resume import refused_changes
from fedsim.core.errors import DataError, ScenarioError
from fedsim.core.messages import Spend
from fedsim.core.rows import BankRows, Corpus
from fedsim.core.scenario import Scenario
from fedsim.privacy.accounting import rdp_epsilon

FILE = """
num_rounds: 4
data: {kind: loan_book, num_banks: 3, rows_per_bank: 100}
partition: {kind: by_column, column: bank, num_banks: 3}
model: {kind: embedded}
train: {local_steps: 4, batch_size: 8}
"""
YEARS = np.array([1999, 2001, 2001, 2005, 2000, 2003, 2004, 2002, 2006, 2007])
BANKS = (
    BankRows("old", np.array([0, 1, 2]), np.array([3])),
    BankRows("new", np.array([5, 6, 7]), np.array([4])),  # its test row is older than its training rows
    BankRows("last", np.array([8, 9]), np.array([], dtype=np.int64)),
)


def scenario(folder: Path, joins: str, **more: str) -> Scenario:
    path = folder / "f.yaml"
    path.write_text(FILE + f"joins: {joins}\n" + "".join(f"{key}: {value}\n" for key, value in more.items()))
    return load_scenario(path)


def corpus() -> Corpus:
    n = len(YEARS)
    return Corpus(("",) * n, ("",) * n, np.full(n, -1), (), np.zeros(n, dtype=bool), {"year": YEARS})


def test_rounds_walk_through_the_training_rows_in_order_of_time(tmp_path: Path) -> None:
    # of 8 training rows 3 are older than the first of "new" (2002), 6 than the first of "last" (2006)
    found = joins_of(scenario(tmp_path, "{column: year}"), corpus(), BANKS)
    assert found == {"new": 1 + 3 * 4 // 8, "last": 1 + 6 * 4 // 8}
    assert list(told_of_joins(found)) == ["Join late: new in round 2, last in round 4."]


def test_rounds_as_they_are_listed(tmp_path: Path) -> None:
    assert joins_of(scenario(tmp_path, "{rounds: {last: 3, old: 1}}"), corpus(), BANKS) == {"last": 3}
    assert list(told_of_joins({})) == []


@pytest.mark.parametrize(
    ("joins", "message"),
    [
        ("{rounds: {nwe: 2}}", "no bank is called 'nwe'. Did you mean 'new'? Banks: old, new, last"),
        ("{rounds: {new: 5}}", "'new' would join in round 5 of 4: it would never take part"),
        ("{rounds: {old: 2, new: 2, last: 2}}", "no bank takes part in the first round"),
        ("{column: yaer}", "no column 'yaer' for joins. Did you mean 'year'"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, joins: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        joins_of(scenario(tmp_path, joins), corpus(), BANKS)
    assert message in str(error.value)
    assert error.value.key == "joins"


@pytest.mark.parametrize("joins", ["{}", "{rounds: {a: 2}, column: year}", "{rounds: {a: 2}, format: '%Y'}"])
def test_rounds_or_a_column(tmp_path: Path, joins: str) -> None:
    with pytest.raises(ScenarioError, match=r"give either rounds or column|format has an effect only with column"):
        scenario(tmp_path, joins)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"strategy": "{kind: pooled}"}, "no bank takes part in rounds"),
        ({"strategy": "{kind: fedbuff}"}, "samples no banks"),
        ({"privacy": "{kind: dp_bank_central, noise_multiplier: 1.0, dp_delta: 1e-5}"}, "accounts for"),
        ({"secure_aggregation": "{kind: secagg}"}, "is set up for one number of banks"),
    ],
)
def test_where_the_number_of_banks_counts_none_joins_late(tmp_path: Path, more: dict[str, str], message: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(FILE + "joins: {rounds: {bank-01: 2}}\n" + "".join(f"{k}: {v}\n" for k, v in more.items()))
    assert message in " ".join(problem.message for problem in check([path]) if problem.key == "joins")


def test_a_late_bank_pays_for_its_own_rounds_only(tmp_path: Path) -> None:
    private = "{kind: dp_sgd, noise_multiplier: 1.5, max_grad_norm: 1, dp_delta: 1e-5}"
    scenario(tmp_path, "{rounds: {bank-01: 4}}", privacy=private)
    told = plan(tmp_path / "f.yaml")["banks"]
    for name, rounds in (("bank-00", 4), ("bank-01", 1)):
        spend = Spend(1.5, 8 / told[name]["num_train"], 4 * rounds)
        assert told[name]["epsilon"] == pytest.approx(rdp_epsilon([spend], 1e-5)), name


def test_calibrated_noise_is_that_of_its_own_rounds(tmp_path: Path) -> None:
    private = "{kind: dp_sgd, dp_epsilon: 2, max_grad_norm: 1, dp_delta: 1e-5}"
    late, early = (
        plan(tmp_path / "f.yaml")["banks"]["bank-01"]
        for round_ in (4, 1)
        if scenario(tmp_path, f"{{rounds: {{bank-01: {round_}}}}}", privacy=private)
    )
    assert late["noise_multiplier"] < early["noise_multiplier"]
    assert late["epsilon"] == pytest.approx(2, abs=0.02)


def test_a_run_that_goes_on_keeps_its_rounds_where_joining_is_spread_over_them(tmp_path: Path) -> None:
    then = scenario(tmp_path, "{column: year}").portable()
    more = scenario(tmp_path, "{column: year}").model_copy(update={"num_rounds": 5})
    assert "joins.column is spread over the rounds" in " ".join(refused_changes(then, more))
