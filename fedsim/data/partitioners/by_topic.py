"""Topic skew, for texts with or without labels: banks differ in what their texts are about.

A topic is a cluster of the texts as the frozen base model sees them: k-means over its mean-pooled last hidden states
(the column ``embedding``), centred and scaled to length 1, because hidden states share a large common direction.

    alpha not given   a topic lives at one bank: the largest topic left goes to the bank with the fewest rows
    alpha             every topic is shared out by its own draw from Dirichlet(alpha) over the banks, as labels are by
                      dirichlet; smaller is stronger

Hidden states differ in their last bits between kinds of machines, and a row between two topics may change sides: take
a run's saved split along (kind: file) where the very same banks are needed elsewhere.
"""

from __future__ import annotations

import warnings

import numpy as np
from pydantic import Field, model_validator

from fedsim.core import registry
from fedsim.core.errors import DataError
from fedsim.data.base import Columns, MinSize, NumBanks, Partitioner, Split, join, numbered
from fedsim.data.columns import column
from fedsim.data.directions import directions
from fedsim.data.partitioners.dirichlet import Dirichlet, Positive

STARTS = 4  # of k-means, of which the best is taken


class ByTopic(Partitioner):
    embeds = True

    class Config(registry.Config):
        num_banks: NumBanks
        num_topics: int | None = Field(default=None, ge=1, description="Clusters of texts; null: one per bank.")
        alpha: Positive | None = Field(
            default=None, description="How a topic is shared out; smaller is stronger, null: a topic lives at one bank."
        )
        min_partition_size: MinSize = 10

        @model_validator(mode="after")
        def _a_topic_for_every_bank(self) -> ByTopic.Config:
            if self.alpha is None and self.num_topics is not None and self.num_topics < self.num_banks:
                raise ValueError(f"{self.num_topics} whole topics are too few for {self.num_banks} banks; give alpha")
            return self

    config: Config

    def split(self, columns: Columns, rng: np.random.Generator) -> Split:
        config = self.config
        topics = find_topics(column(columns, "embedding"), config.num_topics or config.num_banks, rng)
        if config.alpha is None:
            return self._whole(topics)
        shares = Dirichlet.Config(
            num_banks=config.num_banks,
            alpha=config.alpha,
            partition_by="topic",
            min_partition_size=config.min_partition_size,
        )
        return Dirichlet(shares).split({"topic": topics}, rng)

    def _whole(self, topics: np.ndarray) -> Split:
        parts: list[list[np.ndarray]] = [[] for _ in range(self.config.num_banks)]
        sizes = np.zeros(len(parts), dtype=np.int64)
        for topic in range(int(topics.max(initial=-1)) + 1):
            bank, rows = int(sizes.argmin()), np.flatnonzero(topics == topic)
            parts[bank].append(rows)
            sizes[bank] += len(rows)
        split = numbered([join(part) for part in parts])
        smallest = min(split, key=lambda bank: len(split[bank]))
        if len(split[smallest]) < self.config.min_partition_size:
            raise DataError(
                f"{smallest} gets {len(split[smallest])} of {len(topics)} rows, but min_partition_size is "
                f"{self.config.min_partition_size}: give alpha, or lower num_banks or min_partition_size"
            )
        return split


def find_topics(embeddings: np.ndarray, num_topics: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) topic of each row of ``embeddings`` (n, d), 0 being the largest. DataError when there are not so many."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    seed = int(rng.integers(2**31))
    points = directions(embeddings)
    few = DataError(f"the texts do not make {num_topics} topics: too few of the {len(points)} differ; lower num_topics")
    if len(points) < num_topics:
        raise few
    kmeans = KMeans(num_topics, n_init=STARTS, random_state=seed)
    with warnings.catch_warnings(), threadpool_limits(limits=1):  # one thread: sums in one order
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            found = kmeans.fit_predict(points)
        except ConvergenceWarning as error:
            raise few from error
    by_size = np.argsort(-np.bincount(found, minlength=num_topics), kind="stable")
    return np.asarray(np.argsort(by_size)[found])
