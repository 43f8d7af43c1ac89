"""Label, quantity and feature skew together, each at its own strength.

Every row goes to bank k with probability proportional to

    q_k * m_k[label] * exp(-(feature_strength * K * (u - c_k))^2 / 2)

    q ~ Dirichlet(quantity_alpha) over the K banks      how big a bank is
    m_k ~ Dirichlet(label_alpha) over the classes       which labels it sees
    u in [0, 1] is the row's rank by the feature, c_k the bank's place on that scale (evenly spaced, in random order):
    at strength 1 a bank's rows lie within about one bank's width of its place

A skew that is not given is off (its factor is constant); with all off the split is iid. As with dirichlet, a draw that
leaves a bank below ``min_partition_size`` is thrown away, at most MAX_DRAWS times.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field, model_validator

from fedsim.core import registry
from fedsim.data.base import Columns, MinSize, NumBanks, PartitionBy, Partitioner, Split, draw_until, num_rows
from fedsim.data.columns import categories, numbers


class Mixture(Partitioner):
    class Config(registry.Config):
        num_banks: NumBanks
        label_alpha: float | None = Field(default=None, gt=0, description="Label skew; smaller is stronger.")
        partition_by: PartitionBy = "label"
        quantity_alpha: float | None = Field(default=None, gt=0, description="Quantity skew; smaller is stronger.")
        feature: str | None = Field(default=None, min_length=1, description="A column of numbers.")
        feature_strength: float = Field(default=1.0, ge=0, description="Feature skew; larger is stronger, 0 is none.")
        min_partition_size: MinSize = 10

        @model_validator(mode="after")
        def _feature_named(self) -> Mixture.Config:
            if self.feature is None and "feature_strength" in self.model_fields_set:
                raise ValueError("feature_strength needs feature: a column of numbers")
            return self

    config: Config

    def split(self, columns: Columns, rng: np.random.Generator) -> Split:
        config, count = self.config, num_rows(columns)
        codes = categories(columns, config.partition_by)[1] if config.label_alpha else np.zeros(count, dtype=np.int64)
        ranks = _ranks(numbers(columns, config.feature), rng) if config.feature else np.zeros(count)
        remedy = "raise label_alpha or quantity_alpha, or lower feature_strength, num_banks or min_partition_size"
        return draw_until(lambda: self._draw(codes, ranks, rng), config.min_partition_size, remedy)

    def _draw(self, codes: np.ndarray, ranks: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        config, banks, classes = self.config, self.config.num_banks, int(codes.max(initial=0)) + 1
        weights = np.zeros((len(codes), banks))  # log of the row's weight at each bank
        if config.quantity_alpha:
            weights += _log(rng.dirichlet(np.full(banks, config.quantity_alpha)))
        if config.label_alpha:
            weights += _log(rng.dirichlet(np.full(classes, config.label_alpha), size=banks)).T[codes]
        if config.feature:
            centres = rng.permutation((np.arange(banks) + 0.5) / banks)
            weights -= 0.5 * (config.feature_strength * banks * (ranks[:, None] - centres)) ** 2
        chosen = (weights + rng.gumbel(size=weights.shape)).argmax(axis=1)  # Gumbel: a draw from softmax(weights)
        return [np.flatnonzero(chosen == bank) for bank in range(banks)]


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)))


def _ranks(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) places in [0, 1] by value, ties in random order."""
    order = np.lexsort((rng.random(len(values)), values))
    ranks = np.empty(len(values))
    ranks[order] = (np.arange(len(values)) + 0.5) / len(values)
    return ranks
