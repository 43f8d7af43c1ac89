"""What every mechanism with Gaussian noise shares: the noise is given or calibrated, and charged by its sensitivity.

Law: the accountant is charged the deviation of the noise over the distance that one protected unit can move a release.
With N(0, (noise_multiplier bound)^2) on something that moves by at most ``sensitivity`` bounds, that is
noise_multiplier / sensitivity; a sampling rate below 1 is charged only where the unit itself was sampled, and with the
way in which it was. Sampling a fixed number without replacement has neighbours that differ by one unit replaced by
another, which moves a release twice as far as one that is added or removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from pydantic import Field, model_validator
from torch import Tensor

from fedsim.core.adapter import Tensors, flatten, norm, unflatten
from fedsim.core.errors import PrivacyConfigError
from fedsim.core.messages import Spend
from fedsim.core.sections import Sampling
from fedsim.privacy.accounting import calibrate
from fedsim.privacy.base import BankPlan, Mechanism, Terms
from fedsim.privacy.planning import delta_problems
from fedsim.privacy.sources import Source


class GaussianTerms(Terms):
    """Terms with the noise: given, or calibrated to ``dp_epsilon``."""

    noise_multiplier: float | None = Field(None, ge=0)  # sigma: noise deviation over the clipping bound

    @model_validator(mode="after")
    def _noise_or_target(self) -> GaussianTerms:
        if self.noise_multiplier is None and self.dp_epsilon is None:
            raise ValueError(
                "give noise_multiplier (epsilon is reported), dp_epsilon (the noise is calibrated to it), "
                "or both (dp_epsilon is a cap)"
            )
        return self


class Part(NamedTuple):
    """One unit's part in a release: how far it moves it, in clipping bounds, and how it was sampled."""

    sensitivity: float
    sample_rate: float = 1.0
    sampling: Sampling = "poisson"


class Gaussian(Mechanism):
    """``noise_multiplier`` is the deviation of the noise over the clipping bound, whatever is charged for it."""

    sensitivity: ClassVar[float] = 1.0  # how far one unit more or less moves a release, in clipping bounds
    sampled: ClassVar[bool] = False  # the unit is what the plan samples in every step

    config: GaussianTerms

    def __init__(self, config: GaussianTerms, plan: BankPlan) -> None:
        super().__init__(config, plan)
        self.noise_multiplier = self.noise_for(config, plan)

    @property
    def noise_deviation(self) -> float:
        """Of each released value."""
        return self.noise_multiplier * self.bound

    @property
    def bound(self) -> float:
        """What is clipped to."""
        raise NotImplementedError

    @property
    def clips_to(self) -> float | None:
        return self.bound

    @classmethod
    def problems(cls, config: GaussianTerms, plans: Sequence[BankPlan]) -> list[str]:
        sizes = [plan.num_units if cls.per_unit else plan.num_examples for plan in plans]
        problems = [] if cls.per_update else delta_problems(config.dp_delta, min(size or 1 for size in sizes))
        for plan in plans:
            try:
                cls.noise_for(config, plan)  # cached: the mechanism of this bank asks the same
            except PrivacyConfigError as error:
                return [*problems, f"at {plan.name}: dp_epsilon {error.problems[0].message}"]  # the same remedy for all
        return problems

    @classmethod
    def noise_for(cls, config: GaussianTerms, plan: BankPlan) -> float:
        """The noise multiplier at one bank. PrivacyConfigError when no noise is enough for ``dp_epsilon``."""
        if config.noise_multiplier is not None:
            return config.noise_multiplier
        if config.dp_epsilon is None:
            raise ValueError("neither noise_multiplier nor dp_epsilon")
        releases, part = cls.releases(plan.steps_per_round) * plan.num_rounds, cls.part(config, plan)
        charged = Spend(1.0, part.sample_rate, releases, part.sampling)
        return part.sensitivity * calibrate(config.dp_epsilon, config.dp_delta, charged, config.accountant)

    @classmethod
    def part(cls, config: Any, plan: BankPlan) -> Part:
        """What is charged for a release, beside the noise."""
        if not cls.sampled:
            return Part(cls.sensitivity)
        replaced = 2 if plan.sampling == "fixed" else 1
        return Part(replaced * cls.sensitivity, plan.sample_rate, plan.sampling)

    @classmethod
    def releases(cls, num_steps: int) -> int:
        """How often a round of so many steps releases something."""
        return min(1, num_steps) if cls.per_update else num_steps

    def gaussian(self, numel: int, source: Source) -> Tensor:
        """(numel,) float32 N(0, (noise_multiplier bound)^2), whatever its unit is."""
        return (source.normal(numel) * self.noise_deviation).float()

    def spend(self, num_steps: int) -> Spend:
        part = self.part(self.config, self.plan)
        noise = self.noise_multiplier / part.sensitivity
        return Spend(noise, part.sample_rate, self.releases(num_steps), part.sampling)


def clipped(norms: Tensor, bound: float) -> Tensor:
    """(n,) factors that bring gradients of these norms to at most ``bound``; 0 for a norm that is not finite."""
    weights = (bound / norms).clamp(max=1)  # a norm of 0 gives inf, hence 1
    return weights.where(norms.isfinite(), 0)


def clipped_update(delta: Tensors, bound: float) -> dict[str, Tensor]:
    """The update scaled to a joint norm of at most ``bound`` (1 + 1e-6); zeros when its norm is not finite."""
    length = norm(delta)
    if length <= bound:
        return dict(delta)
    share = bound / length if length < float("inf") else 0.0  # NaN compares as false
    return {name: (tensor.nan_to_num() * share).to(tensor.dtype) for name, tensor in delta.items()}


def noisy_update(delta: Tensors, noise: Tensor) -> dict[str, Tensor]:
    """The update plus a flat noise vector; names in sorted order."""
    return unflatten(flatten(delta) + noise, delta)
