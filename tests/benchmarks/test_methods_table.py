"""The published table of methods: what it claims holds, and it knows every method."""

from __future__ import annotations

import pytest

from fedsim.strategies import STRATEGIES
from tests.benchmarks.fixed_banks import RANKS, SIZES, Setup, measure
from tests.benchmarks.methods_table import (
    GAUGES,
    TARGET,
    covariance_identity,
    create,
    error_in_gauge,
    error_of_published_baseline,
    trained_methods,
)


@pytest.mark.parametrize("kind", [kind for kind, method in STRATEGIES.items() if method.sheet.exact == "yes"])
def test_exact_methods_are_exact_to_rounding(kind: str) -> None:
    assert max(measure(Setup(create(kind))).errors) < 1e-14
    if STRATEGIES[kind].sheet.mixed_ranks:
        assert max(measure(Setup(create(kind), RANKS)).errors) < 1e-14


def test_the_error_of_fedit_is_the_covariance_of_the_factors() -> None:
    error, covariance, gap = covariance_identity()
    assert error == pytest.approx(covariance, rel=1e-12)
    assert gap < 1e-14
    assert error > 0.1


def test_fedit_depends_on_the_gauge_and_product_rules_do_not() -> None:
    fedit = [error_in_gauge("fedavg", name) for name in GAUGES]
    assert min(abs(fedit[i] - fedit[j]) for i, j in ((0, 1), (0, 2), (1, 2))) > 0.01
    flexlora = [error_in_gauge("flexlora", name) for name in GAUGES]
    assert flexlora == pytest.approx([flexlora[0]] * 3, rel=1e-9)
    assert max(error_in_gauge(kind, name) for kind in ("flora", "fedex_lora") for name in GAUGES) < 1e-14


def test_the_published_baseline_keeps_next_to_nothing() -> None:
    assert error_of_published_baseline() > 1 - SIZES[0] / sum(SIZES)


def test_bytes_of_fedit_and_of_what_it_is_compared_with() -> None:
    """Values 4 bytes each: 8 rows of A (64) and columns of B (96 + 48 + 192) per layer, and a head of 194."""
    a, b, head = 4 * 8 * 3 * 64, 4 * 8 * (96 + 48 + 192), 4 * 194
    rows = {kind: measure(Setup(create(kind))) for kind in ("fedavg", "ffa_lora", "fedsb", "flora", "fedex_lora")}
    assert {kind: round(row.up[1].encoded) for kind, row in rows.items()} == {
        "fedavg": a + b + head,
        "ffa_lora": b + head,
        "fedsb": 4 * 3 * 64 + head,
        "flora": a + b + head,
        "fedex_lora": a + b + head,
    }
    assert round(rows["flora"].down[1].encoded) == 6 * (a + b) + head
    assert round(rows["fedex_lora"].down[1].encoded) == a + b + head + 5 * (a + b)


def test_the_committed_table_has_a_row_for_every_method() -> None:
    lines = TARGET.read_text(encoding="utf-8").splitlines()
    listed = {line.split("|")[1].strip() for line in lines if line.startswith("| ")}
    assert {kind for kind, _ in trained_methods()} <= listed
