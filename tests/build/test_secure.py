"""What is only known once the banks are: whether a round has enough of them to hide in."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim.build.load import load_scenario
from fedsim.build.prepare import make_mechanisms
from fedsim.build.secure import bank_side, num_summed, secure_sum
from fedsim.core.errors import ScenarioError
from fedsim.privacy import BankPlan
from fedsim.strategies import STRATEGIES

TEXT = """
num_rounds: 1
data: {kind: loan_book}
partition: {kind: by_column, column: bank}
model: {kind: embedded}
secure_aggregation: """


def made(folder: Path, section: str, num_banks: int, method: str = "fedavg", more: str = ""):  # type: ignore[no-untyped-def]
    path = folder / "f.yaml"
    path.write_text(f"{TEXT}{section}\n{more}")
    scenario = load_scenario(path)
    plans = [BankPlan(f"bank-{k}", 100, 16, 5, 1, num_summed=num_summed(scenario, num_banks)) for k in range(num_banks)]
    mechanisms = make_mechanisms(scenario.privacy, plans)
    return secure_sum(scenario, STRATEGIES.create(method, {}), list(mechanisms.values()))


def test_terms_of_both_sides(tmp_path: Path) -> None:
    terms = made(tmp_path, "{kind: secagg, bits: 16, clip: 0.5}", 12, more="upload: [{kind: randk, density: 0.5}]\n")
    assert (terms.grid.max_code, terms.grid.step, terms.equal_weights) == (32767, 0.5 / 32767, False)
    assert [stage.config.density for stage in terms.sparsifiers] == [0.5]
    assert made(tmp_path, "{kind: secagg}", 12, "flasc").equal_weights
    assert made(tmp_path, "{kind: none}", 12) is None
    assert bank_side(None) is None
    one, other = bank_side(terms), bank_side(terms)
    assert one is not None
    assert other is not None
    assert one.secret != other.secret
    assert repr(one.secret) not in repr(one)


@pytest.mark.parametrize(("num_banks", "fraction", "got"), [(2, 1.0, 2), (8, 0.25, 2), (1, 1.0, 1)])
def test_two_banks_cannot_hide_from_each_other(num_banks: int, fraction: float, got: int, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=f"in a sum of {got} banks each can tell the others' part; have at least 3"):
        made(tmp_path, "{kind: secagg}", num_banks, more=f"client_fraction: {fraction}\n")


def test_the_noise_of_the_banks_brings_its_own_grid(tmp_path: Path) -> None:
    """Eight of twelve banks are opened at the least: seven others, 2 C / sqrt(7) of noise in 256 steps."""
    privacy = "privacy: {kind: dp_bank_distributed, noise_multiplier: 2.0, dp_delta: 1e-5, noise_steps: 256}\n"
    terms = made(tmp_path, "{kind: secagg}", 12, more=privacy)
    assert terms.grid.step == pytest.approx(2 / (256 * 7**0.5))
    assert (terms.grid.exact, terms.equal_weights) == (True, True)
    reach = (65 / 64) / terms.grid.step + 12 * 256
    assert reach <= terms.grid.max_code < reach + 2
