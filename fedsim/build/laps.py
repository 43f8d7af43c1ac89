"""What lap times say: which size is fastest, which are as good, and whether that is worth changing a scenario for.

In a lap every size is timed once, so sizes are compared within laps: what slows the whole machine down slows all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

CLOSE = 0.03  # of the time: no difference that is worth a change
FEW, CLOSE_IF_FEW = 5, 0.10  # with fewer laps, noise alone makes as much


@dataclass(frozen=True, slots=True)
class Choice:
    """What the laps say."""

    seconds: Mapping[int, float]  # of a training, by size: the median over laps
    as_good: tuple[int, ...]  # sizes that are not told apart from the fastest
    best: int  # the one to write down: the present one if it is as good, else the smallest of those that beat it
    gain: float | None  # how much faster than the present one; None where that was not measured


def choose(laps: Sequence[Mapping[int, float]], present: int) -> Choice:
    """From seconds by size, of the same sizes in every lap.

    A size is as good as the fastest unless it was slower by more than ``CLOSE`` in the median, and slower at all in
    three quarters of the laps; of few laps, unless it was much slower in each.
    """
    seconds = {size: median(lap[size] for lap in laps) for size in laps[0]}
    fastest = min(seconds, key=lambda size: (seconds[size], size))
    as_good = tuple(size for size in sorted(seconds) if not _beats(laps, fastest, size))
    if present not in seconds:
        return Choice(seconds, as_good, as_good[0], None)
    better = [size for size in as_good if _beats(laps, size, present)]  # none if the present one is as good
    best = present if present in as_good else better[0]
    return Choice(seconds, as_good, best, median(lap[present] / lap[best] for lap in laps))


def _beats(laps: Sequence[Mapping[int, float]], fast: int, slow: int) -> bool:
    """Whether it is beyond doubt that one size is faster than another."""
    ratios = [lap[slow] / lap[fast] for lap in laps]
    if len(laps) < FEW:
        return min(ratios) > 1 + CLOSE_IF_FEW
    return median(ratios) > 1 + CLOSE and quantiles(ratios, method="inclusive")[0] > 1
