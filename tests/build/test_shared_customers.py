"""Customers of several banks: what these spend adds up, is told before the run, and obeys the cap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedsim.build.plan import as_text, plan
from fedsim.build.run import run
from fedsim.build.split import MOST_SETS, shared_customers
from fedsim.core.errors import PrivacyConfigError
from fedsim.core.events import Finished
from fedsim.core.messages import Spend
from fedsim.core.rows import BankRows
from fedsim.privacy.accounting import rdp_epsilon
from tests import tiny

NONE = np.zeros(0, dtype=np.int64)
FILE = """
num_rounds: 4
data: {{kind: table, path: loans.csv, text: "rate {{rate}} bank is", label: label, labels: {{0: repaid, 1: default}},
  test: {{column: split, value: test}}, unit: client}}
partition: {{kind: by_column, column: bank}}
model: {{kind: hf, id: {model}, task: causal_lm, max_length: 16}}
lora: {{r: 2, target_modules: [q_proj]}}
train: {{local_steps: 2, sample_rate: 0.25, optimizer: sgd, lr: 0.1}}
privacy: {{kind: dp_sgd_customer, dp_delta: 1e-3, {privacy}}}
"""


def banks(*rows: list[int]) -> tuple[BankRows, ...]:
    return tuple(BankRows("abcdefgh"[place], np.array(one), NONE) for place, one in enumerate(rows))


def test_sets_of_banks_with_a_customer_in_common() -> None:
    units = np.array(["u", "v", "u", "w", "u", "v", "w", "x"])
    assert shared_customers(banks([0, 1], [2, 3], [7]), units) == (("a", "b"),)
    assert shared_customers(banks([0, 1], [2, 3], [4, 5]), units) == (("a", "b", "c"),)  # (a, c) of v lies within
    assert shared_customers(banks([0], [1], [3, 6]), units) == ()


def test_many_sets_are_charged_as_their_union() -> None:
    pairs = [(a, b) for a in range(13) for b in range(a)]
    rows: list[list[int]] = [[] for _ in range(13)]
    for customer, pair in enumerate(pairs):
        for place, bank in enumerate(pair):
            rows[bank].append(2 * customer + place)
    made = tuple(BankRows(f"{k:02d}", np.array(one), NONE) for k, one in enumerate(rows))
    assert len(pairs) > MOST_SETS
    assert shared_customers(made, np.repeat(np.arange(len(pairs)), 2)) == (tuple(bank.name for bank in made),)


def scenario(folder: Path, privacy: str) -> Path:
    """Banks a and b of 40 customers each, of whom one has a row at both; bank c has its own."""
    rows = ["rate,label,bank,client,split"]
    for number in range(120):
        bank = "abc"[number % 3]
        client = "both" if number in (0, 1) else f"client {number}"
        rows.append(f"{number % 90},{int(number % 90 > 45)},{bank},{client},train")
    rows += [f"{number},{int(number > 45)},{'abc'[number % 3]},t{number},test" for number in range(0, 90, 9)]
    (folder / "loans.csv").write_text("\n".join(rows))
    path = folder / "f.yaml"
    path.write_text(FILE.format(model=tiny.save_llama(folder / "model"), privacy=privacy))
    return path


def test_a_customer_of_two_banks_pays_at_both(tmp_path: Path) -> None:
    path = scenario(tmp_path, "noise_multiplier: 2.0")
    alone, both = (rdp_epsilon([Spend(2.0, 0.25, steps)], 1e-3) for steps in (8, 16))
    told = plan(path)
    assert told["banks"]["a"]["epsilon"] == pytest.approx(alone)
    assert told["customers"] == [{"banks": ["a", "b"], "epsilon": pytest.approx(both)}]
    assert told["epsilon"] == pytest.approx(both)
    assert "a customer of a, b: epsilon" in as_text(told)
    (end,) = (event for event in run(path, out=tmp_path / "out", inline=True) if isinstance(event, Finished))
    assert end.summary["banks"]["c"]["epsilon"] == pytest.approx(alone)
    assert end.summary["epsilon"] == pytest.approx(both)
    assert alone < both
    assert end.summary["banks"]["a"]["epsilon_pld"] < end.summary["epsilon_pld"] <= both


def test_a_cap_stops_the_run_before_a_customer_exceeds_it(tmp_path: Path) -> None:
    cap = rdp_epsilon([Spend(2.0, 0.25, 12)], 1e-3)  # three rounds at both banks, six at one
    path = scenario(tmp_path, f"noise_multiplier: 2.0, dp_epsilon: {cap + 1e-6}")
    *_, end = run(path, out=tmp_path / "out", inline=True)
    assert (end.summary["status"], end.summary["rounds"]) == ("budget_exhausted", 3)
    assert end.summary["epsilon"] == pytest.approx(cap)


def test_noise_that_was_calibrated_bank_by_bank_is_refused(tmp_path: Path) -> None:
    path = scenario(tmp_path, "dp_epsilon: 2.0")
    with pytest.raises(PrivacyConfigError, match=r"a customer of a, b spends 2.* at all of them; lower dp_epsilon"):
        plan(path)


def test_without_noise_nothing_bounds_what_a_customer_loses(tmp_path: Path) -> None:
    told = plan(scenario(tmp_path, "noise_multiplier: 0.0"))
    assert told["customers"] == [{"banks": ["a", "b"], "epsilon": None}]
    assert told["epsilon"] is None
    assert "a customer of a, b: epsilon -" in as_text(told)
