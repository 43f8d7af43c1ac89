"""Topics: three clouds of points that anyone would call clusters, and what banks get of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from fedsim.core.errors import DataError
from fedsim.data import PARTITIONERS
from fedsim.data.base import Split
from fedsim.data.partitioners.by_topic import find_topics

TRUTH = np.repeat([0, 1, 2], [60, 40, 20])


def clouds() -> np.ndarray:
    """(120, 3): 60, 40 and 20 points around three directions, far from the origin as hidden states are."""
    centres = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    noise = np.random.default_rng(0).normal(0, 0.05, (len(TRUTH), 3))
    return (100 + centres[TRUTH] + noise).astype(np.float32)


def split(embeddings: np.ndarray, seed: int = 0, **knobs: Any) -> Split:
    partitioner = PARTITIONERS.create("by_topic", knobs)
    return partitioner.split({"embedding": embeddings}, np.random.default_rng(seed))


def test_topics_are_the_clouds_the_largest_first() -> None:
    for seed in range(3):
        assert np.array_equal(find_topics(clouds(), 3, np.random.default_rng(seed)), TRUTH)


def test_a_whole_topic_lives_at_one_bank() -> None:
    found = split(clouds(), num_banks=3)
    assert [rows.tolist() for rows in found.values()] == [np.flatnonzero(topic == TRUTH).tolist() for topic in range(3)]


def test_more_topics_than_banks_go_to_the_bank_with_the_fewest_rows() -> None:
    found = split(clouds(), num_banks=2, num_topics=3)
    assert [sorted(set(TRUTH[rows])) for rows in found.values()] == [[0], [1, 2]]
    assert [len(rows) for rows in found.values()] == [60, 60]


def test_alpha_shares_topics_out_and_a_large_one_evenly() -> None:
    mild = split(clouds(), num_banks=2, num_topics=3, alpha=1e6)
    assert [np.bincount(TRUTH[rows]).tolist() for rows in mild.values()] == [[30, 20, 10]] * 2
    strong = split(clouds(), seed=1, num_banks=2, num_topics=3, alpha=0.01, min_partition_size=1)
    held = np.array([np.bincount(TRUTH[rows], minlength=3) for rows in strong.values()])
    assert (held.max(axis=0) / held.sum(axis=0)).min() > 0.9


def test_what_cannot_be_split_is_said() -> None:
    with pytest.raises(ValidationError, match="2 whole topics are too few for 3 banks; give alpha"):
        split(clouds(), num_banks=3, num_topics=2)
    with pytest.raises(DataError, match="do not make 3 topics"):
        split(np.ones((50, 2), dtype=np.float32), num_banks=3)
    with pytest.raises(DataError, match="bank-02 gets 20 of 120 rows, but min_partition_size is 21"):
        split(clouds(), num_banks=3, min_partition_size=21)
