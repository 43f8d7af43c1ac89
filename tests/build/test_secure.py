"""What is only known once the banks are: whether a round has enough of them to hide in."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim.build.load import load_scenario
from fedsim.build.secure import bank_side, secure_sum
from fedsim.core.errors import ScenarioError
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
    return secure_sum(load_scenario(path), STRATEGIES.create(method, {}), num_banks)


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
