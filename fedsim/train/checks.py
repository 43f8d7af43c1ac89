"""What must be true after the first step, or the run stops: silent non-training is the field's commonest failure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedsim.core.adapter import AdapterState
from fedsim.core.errors import FedsimError, ModelError
from fedsim.privacy.base import Mechanism
from fedsim.privacy.gaussian import Gaussian
from fedsim.strategies.base import LocalContext


def check_moved(trained: AdapterState, names: Sequence[str], context: LocalContext) -> None:
    """Every trained tensor must have moved in the first job. A moves one step after B when B starts at zero."""
    if context.num_steps < 2:
        return
    still = [name for name in names if torch.equal(trained.tensors[name], context.start[name])]
    if still:
        raise ModelError(
            f"{len(still)} of {len(names)} trainable tensors did not move in {context.num_steps} local steps of bank "
            f"{context.job.bank!r} (first: {still[0]}); is the learning rate {context.lr:g} too small for float32?"
        )


def check_noise(noise: Tensor, mechanism: Mechanism) -> None:
    """The first noise vector must have the promised scale, within 6 standard errors of its empirical deviation."""
    spend = mechanism.spend(1)
    if spend is None or not isinstance(mechanism, Gaussian) or noise.numel() < 100:
        return
    promised = spend.noise_multiplier * mechanism.part(mechanism.config, mechanism.plan).sensitivity * mechanism.bound
    measured = float(noise.double().std())
    if abs(measured - promised) > 6 * promised / math.sqrt(2 * noise.numel()):
        raise FedsimError(f"noise of bank {mechanism.plan.name!r} has deviation {measured:g}, promised {promised:g}")
