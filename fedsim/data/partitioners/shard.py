"""McMahan's shards (arXiv 1602.05629, section 3): rows sorted by label, cut into shards, shards dealt out at random.

    num_shards_per_partition                every bank gets so many shards of nearly equal size; all rows are used
    num_shards_per_partition, shard_size    every bank gets so many shards of this size; the rest is dropped
    shard_size                              all shards are dealt out, banks differ by at most one shard; the last,
                                            smaller shard is dropped unless ``keep_incomplete_shard``

Rows of equal label are shuffled before the cut.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field, model_validator

from fedsim.core import registry
from fedsim.core.errors import DataError
from fedsim.data.base import Columns, NumBanks, PartitionBy, Partitioner, Split, join, numbered
from fedsim.data.columns import categories


class Shard(Partitioner):
    drops = "with shard_size, shards that are left over"

    class Config(registry.Config):
        num_banks: NumBanks
        partition_by: PartitionBy = "label"
        num_shards_per_partition: int | None = Field(2, ge=1, description="Shards per bank; null: all.")
        shard_size: int | None = Field(default=None, ge=1, description="Rows per shard.")
        keep_incomplete_shard: bool = Field(default=False, description="Deal out the last, smaller shard too.")

        @model_validator(mode="after")
        def _something_given(self) -> Shard.Config:
            if self.num_shards_per_partition is None and self.shard_size is None:
                raise ValueError("give num_shards_per_partition, shard_size or both")
            if self.keep_incomplete_shard and (self.shard_size is None or self.num_shards_per_partition is not None):
                raise ValueError("keep_incomplete_shard needs shard_size and num_shards_per_partition: null")
            return self

    config: Config

    def split(self, columns: Columns, rng: np.random.Generator) -> Split:
        _, codes = categories(columns, self.config.partition_by)
        shards = self._shards(np.lexsort((rng.random(len(codes)), codes)))
        banks, each = self.config.num_banks, self.config.num_shards_per_partition
        dealt = rng.permutation(len(shards))[: banks * each if each else None]
        hands = [dealt[bank::banks] for bank in range(banks)]
        return numbered([join([shards[shard] for shard in hand]) for hand in hands])

    def _shards(self, rows: np.ndarray) -> list[np.ndarray]:
        config = self.config
        wanted = config.num_banks * (config.num_shards_per_partition or 1)
        size = config.shard_size or 1
        if wanted * size > len(rows):
            raise DataError(f"{wanted} shards of at least {size} rows are needed, but there are {len(rows)} rows")
        if config.shard_size is None:
            return np.array_split(rows, wanted)
        shards = np.split(rows, np.arange(config.shard_size, len(rows), config.shard_size))
        if len(shards[-1]) < config.shard_size and not config.keep_incomplete_shard:
            shards.pop()
        return shards
