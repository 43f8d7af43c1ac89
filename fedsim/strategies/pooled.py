"""Pooled training, a baseline: one bank that holds everyone's rows; what sharing the data would give.

The method is FedAvg; the run gives it a single bank. Law: with one bank FedAvg is the identity map, so this is plain
central training, interrupted at every round only by a fresh local optimizer.

Deviations: none.
"""

from __future__ import annotations

from dataclasses import replace

from fedsim.strategies.fedavg import FedAvg


class Pooled(FedAvg):
    sheet = replace(FedAvg.sheet, title="All rows in one place", source="baseline", exact="yes, for one bank")
