"""Is an update fit to be aggregated? Looked at before it is decoded (tensors), after it (values, norm), bank by bank.

What is expected is what the bank was sent: an update changes tensors of the job's adapter, so it has their names and
shapes, hence their rank. Under a personal rule a bank sends some of what it trains, else all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from fedsim.core.adapter import Tensors, map_tensors, norm
from fedsim.core.errors import QuorumError
from fedsim.core.messages import TrainJob
from fedsim.core.sections import Failures
from fedsim.engine.failures import Cause, Name
from fedsim.strategies.base import LocalRule

Shapes = Mapping[str, Sequence[int]]


class Refused(QuorumError):
    """An update that is not fit for use. The message says what is wrong with which tensor."""

    def __init__(self, name: Name, message: str) -> None:
        super().__init__(message, "", name)

    @property
    def cause(self) -> Cause:
        return Cause(self.args[2], str(self))


def require_tensors(delta: Shapes, slots: Shapes, job: TrainJob, rule: LocalRule) -> None:
    """Refused unless the update's tensors are those that the job asks for, before anything is made of their sizes."""
    want = {name: tuple(tensor.shape) for name, tensor in job.adapter.tensors.items() if rule.trains(name, job.round)}
    missing = [] if rule.personal else [name for name in want if name not in delta]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise Refused("mismatch", f"adapter mismatch: {missing[0]}{others}: missing")
    for name, shape in delta.items():
        if name not in want:
            raise Refused("mismatch", f"adapter mismatch: {name}: nobody asked for it")
        _require_shape(name, shape, want[name])
    for name, shape in slots.items():
        if name in job.slots:  # it travels both ways
            _require_shape(name, shape, job.slots[name].shape)


def _require_shape(name: str, got: Sequence[int], want: Sequence[int]) -> None:
    if tuple(got) != tuple(want):
        raise Refused("mismatch", f"adapter mismatch: {name}: got {tuple(got)} want {tuple(want)}")


def require_finite(tensors: Tensors) -> None:
    """Refused where a value is NaN or infinite, or no 32-bit number."""
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise Refused("mismatch", f"adapter mismatch: {name}: got {tensor.dtype} want torch.float32")
        require_numbers({name: tensor}, "the update")


def require_numbers(tensors: Tensors, where: str) -> None:
    """Refused where a value is NaN or infinite."""
    for name, tensor in tensors.items():
        finite = torch.isfinite(tensor)
        if not finite.all():
            bad = tensor.numel() - int(finite.sum())
            raise Refused("not_finite", f"{bad} of {tensor.numel()} values of {name!r} in {where} are not finite")


def bounded(delta: Tensors, failures: Failures) -> tuple[Tensors, Cause | None]:
    """(the update at a joint L2 norm within the scenario's bound, why it is not as it came).

    Refused where it is longer and the scenario does not have it clipped.
    """
    if failures.max_norm is None or not delta:
        return delta, None
    found = norm(delta)
    if found <= failures.max_norm:
        return delta, None
    told = f"the update's norm is {found:.4g}, above failures.max_norm {failures.max_norm:g}"
    if failures.too_long == "refuse":
        raise Refused("too_large", told)
    scale = failures.max_norm / found
    return map_tensors(lambda tensor: scale * tensor, delta), Cause("too_large", told)
