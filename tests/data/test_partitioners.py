"""Each way to split rows, on numbers one can check by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from fedsim.core.errors import DataError
from fedsim.data import PARTITIONERS
from fedsim.data.base import MAX_DRAWS, Split, cut, draw_until, numbered

BALANCED = np.array(["a"] * 60 + ["b"] * 60, dtype=object)


def split(kind: str, seed: int = 0, labels: np.ndarray = BALANCED, **knobs: Any) -> Split:
    columns = {"label": labels, "row": np.arange(len(labels), dtype=np.float64)}
    return PARTITIONERS.create(kind, knobs).split(columns, np.random.default_rng(seed))


def split_columns(kind: str, columns: dict[str, Any], **knobs: Any) -> dict[str, list[int]]:
    arrays = {name: np.array(values, dtype=object) for name, values in columns.items()}
    found = PARTITIONERS.create(kind, knobs).split(arrays, np.random.default_rng(0))
    return {name: rows.tolist() for name, rows in found.items()}


def sizes(found: Split) -> list[int]:
    return [len(rows) for rows in found.values()]


def test_iid_sizes_differ_by_at_most_one_and_rows_are_shuffled() -> None:
    found = split("iid", num_banks=7)
    assert list(found) == [f"bank-0{bank}" for bank in range(7)]
    assert sorted(sizes(found)) == [17] * 6 + [18]
    assert all((BALANCED[rows] == "a").any() and (BALANCED[rows] == "b").any() for rows in found.values())


def test_numbered_banks_sort_by_name() -> None:
    names = list(numbered([np.zeros(0)] * 120))
    assert names[0] == "bank-000"
    assert names == sorted(names)


def test_cut_follows_the_shares() -> None:
    assert [part.tolist() for part in cut(np.arange(8), np.array([1.0, 0.0, 3.0]))] == [[0, 1], [], [2, 3, 4, 5, 6, 7]]


def test_draws_are_bounded_and_the_error_reports_the_best_of_them() -> None:
    drawn = []

    def draw() -> list[np.ndarray]:
        drawn.append(len(drawn))
        smallest = 2 if len(drawn) == 7 else 1
        return [np.arange(smallest), np.arange(smallest, 9)]

    with pytest.raises(DataError, match=r"^bank-00 gets 2 of 9 rows in the best of 100 draws, .* is 3: raise it$"):
        draw_until(draw, 3, "raise it")
    assert len(drawn) == MAX_DRAWS


def test_draws_stop_at_the_first_that_is_large_enough() -> None:
    found = draw_until(iter([[np.arange(1)], [np.arange(4)], [np.arange(9)]]).__next__, 3, "")
    assert len(found["bank-00"]) == 4


def test_dirichlet_large_alpha_is_nearly_iid_and_small_alpha_is_not() -> None:
    even = split("dirichlet", num_banks=4, alpha=1e6)
    assert max(abs(size - 30) for size in sizes(even)) <= 1
    skewed = split("dirichlet", num_banks=2, alpha=0.01, min_partition_size=10, seed=1)
    assert sorted(sizes(skewed)) == [60, 60]  # each class at one bank
    assert {"".join(sorted(set(BALANCED[rows]))) for rows in skewed.values()} == {"a", "b"}


def test_dirichlet_takes_one_alpha_per_bank() -> None:
    found = split("dirichlet", num_banks=2, alpha=[1e6, 3e6], min_partition_size=0)
    assert [round(size / 15) for size in sizes(found)] == [2, 6]


def test_dirichlet_self_balancing_gives_nothing_more_to_a_full_bank() -> None:
    labels = np.repeat(np.array(list("abcdefgh"), dtype=object), 20)
    for seed in range(5):
        found = split("dirichlet", labels=labels, num_banks=4, alpha=0.05, self_balancing=True, seed=seed)
        assert max(sizes(found)) < 40 + 20  # below its share before it took the last class


def test_dirichlet_names_the_smallest_bank_when_two_classes_cannot_feed_three_banks() -> None:
    with pytest.raises(DataError, match=r"bank-0\d gets \d of 120 rows in the best of 100 draws.*raise alpha"):
        split("dirichlet", num_banks=3, alpha=1e-4)


def test_dirichlet_refuses_a_minimum_above_the_rows() -> None:
    with pytest.raises(DataError, match="120 rows cannot give 3 banks min_partition_size 41 each"):
        split("dirichlet", num_banks=3, alpha=1, min_partition_size=41)


@pytest.mark.parametrize(
    ("kind", "knobs", "reason"),
    [
        ("dirichlet", {"num_banks": 3, "alpha": [1, 2]}, "alpha lists 2 values for num_banks 3"),
        ("dirichlet", {"num_banks": 3, "alpha": 0}, "greater than 0"),
        ("inner_dirichlet", {"num_banks": 3, "alpha": 1, "partition_sizes": [1]}, "lists 1 sizes, num_banks is 3"),
        ("shard", {"num_banks": 3, "num_shards_per_partition": None}, "give num_shards_per_partition, shard_size or"),
        ("shard", {"num_banks": 3, "keep_incomplete_shard": True}, "needs shard_size"),
        ("distribution", {"distribution": {"a": [1, 2], "b": [1]}}, "one number per bank"),
        ("distribution", {"distribution": {"a": [0, 0]}}, "all zero"),
        ("distribution", {"distribution": {"a": [0.5]}, "rescale": False}, "must be whole"),
        ("mixture", {"num_banks": 3, "feature_strength": 2}, "needs feature"),
        ("iid", {"num_banks": 0}, "greater than or equal to 1"),
    ],
)
def test_knobs_that_contradict_each_other(kind: str, knobs: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        PARTITIONERS.create(kind, knobs)


def test_by_column_orders_by_size_then_name() -> None:
    banks = ["x", "z", "y", "z", "y", "w"]
    assert split_columns("by_column", {"bank": banks}, column="bank") == {"y": [2, 4], "z": [1, 3], "w": [5], "x": [0]}


def test_by_column_takes_the_largest_and_drops_merges_or_refuses_the_rest() -> None:
    columns = {"bank": ["x", "z", "y", "z", None, "y"]}
    assert split_columns("by_column", columns, column="bank", num_banks=2) == {"y": [2, 5], "z": [1, 3]}
    merged = split_columns("by_column", columns, column="bank", num_banks=2, rest="merge")
    assert merged == {"y": [2, 5], "z": [1, 3], "other": [0, 4]}
    with pytest.raises(DataError, match="2 rows belong to none of the 2 banks of column 'bank' and rest is error"):
        split_columns("by_column", columns, column="bank", num_banks=2, rest="error")
    with pytest.raises(DataError, match="has 3 values with at least 1 rows, but num_banks is 4"):
        split_columns("by_column", columns, column="bank", num_banks=4)


def test_by_column_will_not_merge_into_a_bank_that_exists() -> None:
    with pytest.raises(DataError, match="a bank is already called 'other'"):
        split_columns("by_column", {"bank": ["other", "other", "x"]}, column="bank", num_banks=1, rest="merge")


def test_by_column_minimum_and_numbers_as_names() -> None:
    columns = {"branch": [10.0, 9.0, 10.0, np.nan]}
    assert split_columns("by_column", columns, column="branch") == {"10": [0, 2], "9": [1]}
    assert split_columns("by_column", columns, column="branch", min_partition_size=2) == {"10": [0, 2]}


def test_grouped_by_column_modes() -> None:
    columns = {"state": ["e", "d", "c", "b", "a", "a"]}

    def grouped(**knobs: Any) -> list[list[int]]:
        return list(split_columns("grouped_by_column", columns, column="state", **knobs).values())

    assert grouped(group_size=2) == [[3, 4, 5], [1, 2], [0]]
    assert grouped(group_size=2, mode="drop-remainder") == [[3, 4, 5], [1, 2]]
    assert grouped(group_size=2, mode="allow-bigger") == [[0, 3, 4, 5], [1, 2]]
    with pytest.raises(DataError, match=r"has 5 values, which do not make groups of 2; .* or choose another mode"):
        grouped(group_size=2, mode="strict")
    with pytest.raises(DataError, match=r"lower group_size$"):
        grouped(group_size=6)


def test_quantity_skews() -> None:
    assert sizes(split("linear", num_banks=3)) == [20, 40, 60]
    assert sizes(split("square", num_banks=3)) == [9, 34, 77]  # 120 * (1, 4, 9) / 14, cut at 8.6 and 42.9
    assert sizes(split("exponential", num_banks=3)) == [11, 29, 80]  # 120 * (1, e, e^2) / 11.1, cut at 10.8 and 40.2
    assert sizes(split("size", partition_sizes=[5, 1, 30])) == [5, 1, 30]
    with pytest.raises(DataError, match="ask for 121 rows, but there are 120"):
        split("size", partition_sizes=[120, 1])
    assert sum(sizes(split("exponential", num_banks=1000))) == 120  # no overflow


def test_pathological_gives_every_bank_its_number_of_classes() -> None:
    labels = np.repeat(np.array(list("abcde"), dtype=object), 12)
    for mode in ("random", "deterministic", "first-deterministic"):
        found = split(
            "pathological", labels=labels, num_banks=6, num_classes_per_partition=2, class_assignment_mode=mode
        )
        assert all(len(set(labels[rows])) == 2 for rows in found.values()), mode
    fixed = split(
        "pathological", labels=labels, num_banks=5, num_classes_per_partition=2, class_assignment_mode="deterministic"
    )
    assert ["".join(sorted(set(labels[rows]))) for rows in fixed.values()] == ["ab", "bc", "cd", "de", "ae"]
    assert sizes(fixed) == [12] * 5
    with pytest.raises(DataError, match="is 6, but column 'label' has 5 classes"):
        split("pathological", labels=labels, num_banks=2, num_classes_per_partition=6)
    with pytest.raises(DataError, match="class 'a' has 12 rows for 13 banks"):
        split("pathological", labels=labels, num_banks=13, num_classes_per_partition=5)


def test_shards_hold_few_labels_and_keep_their_sizes() -> None:
    found = split("shard", num_banks=4, num_shards_per_partition=1)
    assert [len(set(BALANCED[rows])) for rows in found.values()] == [1, 1, 1, 1]
    assert sizes(split("shard", num_banks=4, num_shards_per_partition=2, shard_size=7)) == [14] * 4
    assert sorted(sizes(split("shard", num_banks=4, num_shards_per_partition=None, shard_size=11))) == [22, 22, 33, 33]
    kept = split("shard", num_banks=2, num_shards_per_partition=None, shard_size=50, keep_incomplete_shard=True)
    assert sum(sizes(kept)) == 120
    with pytest.raises(DataError, match="8 shards of at least 16 rows are needed, but there are 120 rows"):
        split("shard", num_banks=4, num_shards_per_partition=2, shard_size=16)


def test_shards_left_over_are_not_always_those_of_the_last_label() -> None:
    seen = {
        frozenset(BALANCED[split("shard", seed, num_banks=1, num_shards_per_partition=1, shard_size=60)["bank-00"]])
        for seed in range(20)
    }
    assert seen == {frozenset("a"), frozenset("b")}


def test_distribution_shares_and_counts() -> None:
    shares = split("distribution", distribution={"a": [1, 2], "b": [0, 5]})
    assert [(BALANCED[rows] == "a").sum() for rows in shares.values()] == [20, 40]
    assert [(BALANCED[rows] == "b").sum() for rows in shares.values()] == [0, 60]
    counts = split("distribution", distribution={"a": [3, 4], "b": [0, 5]}, rescale=False)
    assert sizes(counts) == [3, 9]
    with pytest.raises(DataError, match="asks for 61 rows of 'a', but there are 60"):
        split("distribution", distribution={"a": [60, 1], "b": [0, 5]}, rescale=False)
    with pytest.raises(DataError, match="does not list the label 'b'; it has a"):
        split("distribution", distribution={"a": [1, 1]})
    with pytest.raises(DataError, match="lists 'c', which no row has"):
        split("distribution", distribution={"a": [1, 1], "b": [1, 1], "c": [1, 1]})


def test_inner_dirichlet_keeps_sizes_at_any_alpha() -> None:
    for alpha in (1e-5, 0.1, 100.0):
        assert sizes(split("inner_dirichlet", num_banks=3, alpha=alpha, partition_sizes=[10, 70, 40])) == [10, 70, 40]
    near = split("inner_dirichlet", num_banks=2, alpha=1e6, seed=3)
    assert sizes(near) == [60, 60]
    assert all(15 <= (BALANCED[rows] == "a").sum() <= 45 for rows in near.values())
    with pytest.raises(DataError, match="alpha lists 3 values for 2 classes of 'label'"):
        split("inner_dirichlet", num_banks=2, alpha=[1, 1, 1])
    with pytest.raises(DataError, match="ask for 121 rows"):
        split("inner_dirichlet", num_banks=2, alpha=1, partition_sizes=[120, 1])


def test_continuous_sorts_at_strictness_one_and_shuffles_at_zero() -> None:
    strict = split("continuous", num_banks=3, partition_by="row", strictness=1)
    assert [sorted(rows.tolist()) for rows in strict.values()] == [list(range(k, k + 40)) for k in (0, 40, 80)]
    loose = split("continuous", num_banks=3, partition_by="row", strictness=0)
    assert all(rows.max() - rows.min() > 80 for rows in loose.values())
    with pytest.raises(DataError, match=r"column 'label' must be numbers; row 1 has 'a' \(and 119 more rows\)"):
        split("continuous", num_banks=3, partition_by="label", strictness=1)


def test_by_length_gives_the_shortest_prompts_to_the_first_bank() -> None:
    assert split_columns("by_length", {"prompt_length": [9, 2, 5, 1]}, num_banks=2) == {
        "bank-00": [3, 1],
        "bank-01": [2, 0],
    }


@pytest.mark.parametrize(
    ("values", "knobs"),
    [
        ([2001, 1999, 2000, 2002], {}),
        (["2001-02-03", "1999-12-31T10:00:00", "2000-01-01", "2001-02-04"], {}),
        (["02/03/2001", "12/31/1999", "01/01/2000", "02/04/2001"], {"format": "%m/%d/%Y"}),
    ],
)
def test_by_time_cuts_periods(values: list[Any], knobs: dict[str, str]) -> None:
    columns = {"when": np.array(values)}
    found = PARTITIONERS.create("by_time", {"num_banks": 2, "column": "when", **knobs}).split(
        columns, np.random.default_rng(0)
    )
    assert [rows.tolist() for rows in found.values()] == [[1, 2], [0, 3]]


def test_by_time_says_which_date_it_cannot_read() -> None:
    with pytest.raises(DataError, match=r"must be ISO dates \(else set format.*row 2 has '31.12.1999'$"):
        split_columns("by_time", {"when": ["2000-01-01", "31.12.1999"]}, num_banks=1, column="when")


def test_by_time_late_banks_see_only_the_periods_since_they_joined() -> None:
    found = split("by_time", num_banks=3, column="row", mode="late")
    assert [rows.min() // 40 for rows in found.values()] == [0, 1, 2]
    assert all(rows.max() >= 80 for rows in found.values())  # all are there in the last period
    assert sizes(found) == [40 + 20 + 13, 20 + 13, 14]


def test_mixture_without_skews_is_iid_and_each_skew_shows() -> None:
    row = np.arange(3000.0)
    columns = {"label": np.where(row % 2 == 0, "a", "b").astype(object), "row": row}

    def mixed(**knobs: Any) -> list[np.ndarray]:
        partitioner = PARTITIONERS.create("mixture", {"num_banks": 3, **knobs})
        return list(partitioner.split(columns, np.random.default_rng(5)).values())

    def default_rates(parts: list[np.ndarray]) -> list[float]:
        return [float((columns["label"][rows] == "b").mean()) for rows in parts]

    plain = mixed()
    assert all(850 < len(rows) < 1150 for rows in plain)
    assert np.ptp(default_rates(plain)) < 0.1
    assert np.ptp(default_rates(mixed(label_alpha=0.3))) > 0.3
    assert np.ptp([len(rows) for rows in mixed(quantity_alpha=0.5)]) > 900
    assert np.ptp([rows.mean() for rows in mixed(feature="row", feature_strength=2)]) > 1500
    assert np.ptp([rows.mean() for rows in mixed(feature="row", feature_strength=0)]) < 300


@pytest.mark.parametrize("kind", ["dirichlet", "pathological", "shard"])
def test_rows_without_a_label_are_refused(kind: str) -> None:
    knobs = {"dirichlet": {"alpha": 1}, "pathological": {"num_classes_per_partition": 1}, "shard": {}}[kind]
    labels = np.array(["a", "b", None, "a", ""], dtype=object)
    with pytest.raises(DataError, match=r"column 'label' has no value in row 3 \(and 1 more rows\)"):
        split(kind, labels=labels, num_banks=1, **knobs)


def test_columns_of_lists_are_refused() -> None:
    values = np.empty(2, dtype=object)
    values[:] = [["a"], ["b"]]
    with pytest.raises(DataError, match="column 'label' holds lists or objects"):
        split("dirichlet", labels=values, num_banks=1, alpha=1, min_partition_size=1)
