"""Every bank sees exactly ``num_classes_per_partition`` classes (Li et al., arXiv 2102.02079, "#C = k").

    random                each bank draws its classes
    deterministic         bank k has classes k, k + 1, ... modulo the number of classes
    first-deterministic   class k modulo the number of classes, and the others drawn (the paper's)

A class is split evenly over the banks that have it. A class that no bank has is dropped.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from fedsim.core import registry
from fedsim.core.errors import DataError
from fedsim.data.base import Columns, NumBanks, PartitionBy, Partitioner, Split, join, numbered
from fedsim.data.columns import categories


class Pathological(Partitioner):
    drops = "classes that no bank has"

    class Config(registry.Config):
        num_banks: NumBanks
        num_classes_per_partition: int = Field(ge=1, examples=[1], description="Classes that each bank sees.")
        partition_by: PartitionBy = "label"
        class_assignment_mode: Literal["random", "deterministic", "first-deterministic"] = "random"

    config: Config

    def split(self, columns: Columns, rng: np.random.Generator) -> Split:
        names, codes = categories(columns, self.config.partition_by)
        each = self.config.num_classes_per_partition
        if each > len(names):
            raise DataError(
                f"num_classes_per_partition is {each}, but column {self.config.partition_by!r} has {len(names)} classes"
            )
        banks = range(self.config.num_banks)
        sees = np.array([self._classes(bank, len(names), rng) for bank in banks])  # (banks, each)
        parts: list[list[np.ndarray]] = [[] for _ in banks]
        for label, name in enumerate(names):
            holders = np.flatnonzero((sees == label).any(axis=1))
            rows = rng.permutation(np.flatnonzero(codes == label))
            if len(rows) < len(holders):
                raise DataError(
                    f"class {name!r} has {len(rows)} rows for {len(holders)} banks; "
                    "lower num_banks or num_classes_per_partition"
                )
            for bank, part in zip(holders, np.array_split(rows, max(1, len(holders))), strict=False):
                parts[bank].append(part)
        return numbered([join(part) for part in parts])

    def _classes(self, bank: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """(num_classes_per_partition,) distinct classes of one bank."""
        each, first = self.config.num_classes_per_partition, bank % count
        if self.config.class_assignment_mode == "deterministic":
            return (first + np.arange(each)) % count
        if self.config.class_assignment_mode == "random":
            return rng.choice(count, each, replace=False)
        others = np.delete(np.arange(count), first)
        return np.append(first, rng.choice(others, each - 1, replace=False))
