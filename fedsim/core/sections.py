"""The sections of a scenario that are fedsim's own, as frozen values. Descriptions give the units."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from fedsim.core.metrics import METRICS, Metric
from fedsim.core.registry import Config

Sampling = Literal["poisson", "fixed"]  # each unit by itself with the sampling rate; so many, without replacement
T = TypeVar("T", bound=Hashable)


def _all_different(values: tuple[T, ...]) -> tuple[T, ...]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value!r} is listed twice")
    return values


Listed = Annotated[tuple[T, ...], Field(strict=False), AfterValidator(_all_different)]


class Section(Config):
    """Base of a scenario's own sections: no quoted numbers, no booleans for integers."""

    model_config = ConfigDict(strict=True)


class Lora(Section):
    """The adapter, in PEFT's words."""

    r: int = Field(default=8, ge=1, description="rank of the adapter that the server holds")
    lora_alpha: int = Field(
        default=16, ge=1, description="scaling is lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora"
    )
    target_modules: list[str] | str | None = Field(
        default=None,
        description="names of the adapted modules, a regular expression, or null for PEFT's choice for the model",
    )
    layers_to_transform: Listed[Annotated[int, Field(ge=0)]] | None = Field(
        default=None,
        description="numbers of the adapted layers, from 0; null: all. What lies below is run once per row",
    )
    use_rslora: bool = Field(default=False, description="rank-stabilised scaling (2312.03732)")
    init_lora_weights: Literal[True, "gaussian"] = Field(default=True, description="PEFT's initial A; B starts at zero")
    train_head: bool = Field(
        default=True, description="false: a classifier's head keeps its initial values and only the adapter is trained"
    )
    bank_ranks: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False, min_length=1)] | None = Field(
        default=None, description="ranks given to the banks in turn, none above r; null: every bank has rank r"
    )

    @model_validator(mode="after")
    def _ranks_within_r(self) -> Lora:
        if self.bank_ranks and max(self.bank_ranks) > self.r:
            raise ValueError(f"bank_ranks must not exceed r (got {max(self.bank_ranks)}, r is {self.r})")
        return self

    @model_validator(mode="after")
    def _layers_of_listed_modules(self) -> Lora:
        if self.layers_to_transform is not None and not self.layers_to_transform:
            raise ValueError("layers_to_transform is empty; leave it out to adapt every layer")
        if self.layers_to_transform is not None and isinstance(self.target_modules, str):
            raise ValueError("layers_to_transform needs target_modules as a list (PEFT ignores it beside a pattern)")
        return self

    def rank_of(self, bank: int) -> int:
        """The rank of the bank at this place in the run's order."""
        return self.bank_ranks[bank % len(self.bank_ranks)] if self.bank_ranks else self.r

    def scaling(self, rank: int) -> float:
        """What multiplies B @ A at this rank."""
        return self.lora_alpha / (math.sqrt(rank) if self.use_rslora else rank)


class Train(Section):
    """A bank's local training in one round. Unless said otherwise: 10 local steps of 16 expected rows."""

    local_epochs: float | None = Field(default=None, gt=0, description="expected passes over the bank's rows per round")
    local_steps: int | None = Field(
        default=None, ge=1, validate_default=True, description="optimizer steps per round; instead of local_epochs"
    )
    sample_rate: float | None = Field(
        default=None, gt=0, le=1, description="expected share of a bank's rows per step (Poisson sampling)"
    )
    batch_size: int | None = Field(
        default=None, ge=1, validate_default=True, description="expected rows per step; instead of sample_rate"
    )
    sampling: Sampling = Field(
        default="poisson",
        description="poisson: every row by itself; fixed: exactly batch_size rows, which costs more epsilon",
    )
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="fresh state in every round")
    lr: float = Field(default=1e-3, gt=0, description="learning rate")
    momentum: float = Field(default=0.0, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled with adamw, coupled with sgd")
    betas: Annotated[tuple[float, float], Field(strict=False)] = Field(default=(0.9, 0.999), description="of adamw")
    lr_schedule: Literal["constant", "cosine"] = Field(default="constant", description="over the rounds")
    min_lr: float = Field(default=0.0, ge=0, description="where the cosine ends")
    max_rows: int = Field(
        default=64,
        ge=1,
        description="rows in one forward pass: memory, speed (fedsim plan --measure), of the result only its rounding",
    )

    @field_validator("local_steps")
    @classmethod
    def _steps_or_epochs(cls, steps: int | None, info: ValidationInfo) -> int | None:
        epochs = info.data.get("local_epochs")
        if steps is not None and epochs is not None:
            raise ValueError(f"give local_steps ({steps}) or local_epochs ({epochs}), not both")
        return 10 if steps is None and epochs is None else steps

    @field_validator("batch_size")
    @classmethod
    def _size_or_rate(cls, size: int | None, info: ValidationInfo) -> int | None:
        rate = info.data.get("sample_rate")
        if size is not None and rate is not None:
            raise ValueError(f"give batch_size ({size}) or sample_rate ({rate}), not both")
        return 16 if size is None and rate is None else size

    @model_validator(mode="after")
    def _no_idle_knob(self) -> Train:
        # Compared with the defaults, not with what was set: a resolved scenario lists every knob and must load again.
        idle = {
            "momentum": (self.momentum != 0 and self.optimizer != "sgd", "optimizer: sgd"),
            "betas": (self.betas != (0.9, 0.999) and self.optimizer != "adamw", "optimizer: adamw"),
            "min_lr": (self.min_lr != 0 and self.lr_schedule != "cosine", "lr_schedule: cosine"),
        }
        for knob, (set_in_vain, owner) in idle.items():
            if set_in_vain:
                raise ValueError(f"{knob} has an effect only with {owner}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be >= 0 and < 1 (got {list(self.betas)})")
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr must not exceed lr (got {self.min_lr}, lr is {self.lr})")
        return self


class Evaluate(Section):
    """When and how adapters are scored on test rows."""

    every: int = Field(default=1, ge=1, description="rounds between evaluations; the last round is always evaluated")
    metrics: Listed[Metric] | None = Field(default=None, description="null: all that the task allows")
    per_bank: bool = Field(default=True, description="also on every bank's own test rows")
    max_new_tokens: int = Field(
        default=64, ge=1, description="longest answer that is written for exact_match, token_f1 and numeric_match"
    )
    max_rows: int | None = Field(default=None, ge=1, description="test rows per evaluation, drawn once; null: all")

    @property
    def answer_tokens(self) -> int:
        """Of the longest answer that is written; 0 where no metric needs one."""
        return self.max_new_tokens if any(METRICS[name].written for name in self.metrics or ()) else 0

    @model_validator(mode="after")
    def _no_idle_knob(self) -> Evaluate:
        if self.max_new_tokens != type(self).model_fields["max_new_tokens"].default and not self.answer_tokens:
            written = ", ".join(name for name, info in METRICS.items() if info.written)
            raise ValueError(f"max_new_tokens has an effect only with a metric of {written}")
        return self


class Audit(Section):
    """Attacks on the run itself: rows of every bank train or not by the toss of a coin, and are then guessed."""

    canaries: int = Field(default=20, ge=2, description="strange rows at each bank, for the lower bound of epsilon")
    members: int = Field(default=0, ge=0, description="rows as they are at each bank, for the membership attacks")
    shadow_runs: int = Field(default=0, ge=0, description="more whole runs with other coins, for LiRA on the members")
    inversions: int = Field(default=0, ge=0, description="rows at each bank whose words are guessed from one step")
    confidence: float = Field(default=0.95, ge=0.5, lt=1, description="of the lower bound")

    @model_validator(mode="after")
    def _shadows_of_something(self) -> Audit:
        if self.shadow_runs and not self.members:
            raise ValueError("shadow_runs has an effect only with members")
        return self


class Joins(Section):
    """Banks that join late: before its first round a bank is neither drawn nor charged. It holds what it holds."""

    rounds: dict[str, Annotated[int, Field(ge=1)]] | None = Field(
        default=None,
        min_length=1,
        description="first round of banks by name, from 1; the others are there from the first",
    )
    column: str | None = Field(
        default=None,
        min_length=1,
        description="a column of times: as if the rounds walked through all training rows in its order, a bank takes "
        "part from the round that comes to its first row",
    )
    format: str | None = Field(default=None, description="how dates of the column are written, e.g. '%m/%d/%Y'")

    @model_validator(mode="after")
    def _one_way(self) -> Joins:
        if (self.rounds is None) == (self.column is None):
            raise ValueError("give either rounds or column")
        if self.format is not None and self.column is None:
            raise ValueError("format has an effect only with column")
        return self


class Resources(Section):
    """What the actors reserve from Ray. Never changes a result."""

    gpus_per_client: float = Field(default=0.0, ge=0, description="GPUs per actor; a fraction shares one GPU")
    cpus_per_client: float = Field(default=1.0, gt=0, description="CPU cores per actor")
    banks_per_actor: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="banks that one actor trains together as a cohort"
    )
    num_actors: int | None = Field(default=None, ge=1, description="actors; null: as many as banks and cluster allow")
    bank_gauges: bool = Field(default=False, description="on a cluster, export metrics of banks under their names")


class Failures(Section):
    """What follows when a bank's work fails: its process dies, hangs or raises, or its update cannot be used.

    Without failures no key of this block reaches a result.
    """

    policy: Literal["retry", "skip", "abort"] = Field(
        default="retry",
        description="retry: repeat the work, then end the run; skip: repeat it, then go on without the bank; "
        "abort: end the run at the first failure",
    )
    retries: int = Field(default=2, ge=0, le=100, description="repetitions of work whose process died or ran late")
    quorum: float = Field(
        default=0.5, gt=0, le=1, description="share of a round's banks that must answer, or the run ends (skip)"
    )
    quarantine: int = Field(
        default=2, ge=1, description="refused updates after which a bank is left out of the run (skip)"
    )
    max_norm: float | None = Field(
        default=None, gt=0, description="L2 norm above which an update is too long; null: any finite one is taken"
    )
    too_long: Literal["refuse", "clip"] = Field(
        default="refuse", description="an update above max_norm is not used, or used at that length"
    )
    no_rows: Literal["error", "skip"] = Field(
        default="error", description="a bank without training rows ends the run before it starts, or is left out of it"
    )
    deadline_s: float | None = Field(
        default=None, gt=0, description="seconds after which an attempt counts as failed; null: wait"
    )
    deadline_factor: float | None = Field(
        default=None, gt=1, description="the same, as a multiple of the median time of the run's attempts so far"
    )

    @model_validator(mode="after")
    def _no_idle_knob(self) -> Failures:
        for knob, default in (("quorum", 0.5), ("quarantine", 2)):
            if getattr(self, knob) != default and self.policy != "skip":
                raise ValueError(f"{knob} has an effect only with policy: skip (got {self.policy})")
        if self.too_long != "refuse" and self.max_norm is None:
            raise ValueError("too_long has an effect only with max_norm")
        if self.retries != 2 and self.policy == "abort":
            raise ValueError("retries has an effect only with policy: retry or skip (got abort)")
        if self.deadline_s is not None and self.deadline_factor is not None:
            raise ValueError(f"give deadline_s ({self.deadline_s:g}) or deadline_factor, not both")
        return self

    def least(self, banks: int) -> int:
        """How many of a round's banks must answer."""
        return banks if self.policy != "skip" else max(1, math.ceil(self.quorum * banks - 1e-9))
