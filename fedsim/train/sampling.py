"""Which of a bank's rows take part in a local step: Poisson sampling, the sampling that the accountant assumes."""

from __future__ import annotations

import numpy as np

from fedsim.core import seeds


def poisson_batch(rows: np.ndarray, rate: float, seed: int, step: int) -> np.ndarray:
    """Each row independently with probability ``rate``; the batch may be empty. (1607.00133, Algorithm 1)

    ``seed`` is the job's, so a retry draws the same rows.
    """
    chosen: np.ndarray = rows[seeds.rng(seed, "batch", step).random(len(rows)) < rate]
    return chosen


def steps_of(local_steps: int | None, local_epochs: float | None, num_examples: int, batch_size: float) -> int:
    """Local steps of one job: as given, or as many as make ``local_epochs`` expected passes over the bank's rows."""
    if local_steps is not None:
        return local_steps
    if local_epochs is None:
        raise ValueError("give local_steps or local_epochs")
    return max(1, round(local_epochs * num_examples / batch_size))
