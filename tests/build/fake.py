"""Small registries, so that messages are tested on knobs that stand still."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from fedsim.build.families import Families
from fedsim.codecs import CODECS
from fedsim.core import registry
from fedsim.core.registry import NoKnobs, Registry
from fedsim.secagg import PROTOCOLS
from fedsim.strategies import Sheet


class Plug:
    Config: ClassVar[type] = NoKnobs
    per_update: ClassVar[bool] = False
    needs_sum: ClassVar[bool] = False

    def __init__(self, config: Any) -> None:
        self.config = config


class HeldOut(registry.Config):
    column: str = Field(min_length=1)
    fraction: float | None = Field(default=None, gt=0, lt=1)


class Table(Plug):
    class Config(registry.Config):
        path: str = Field(min_length=1)
        labels: dict[bool | int | float | str, str] | tuple[str, ...] | None = None
        test: HeldOut | None = None


class Iid(Plug):
    class Config(registry.Config):
        num_banks: int = Field(default=4, ge=1)


class Dirichlet(Plug):
    class Config(registry.Config):
        num_banks: int = Field(ge=1)
        alpha: float | tuple[float, ...] = Field(examples=[0.5])


class Embedded(Plug):
    class Config(registry.Config):
        quant_bits: Literal[4, 8] | None = None


class Hub(Plug):
    class Config(registry.Config):
        id: str


class DPSGD(Plug):
    class Config(registry.Config):
        noise_multiplier: float | None = Field(default=None, ge=0)
        dp_delta: float = Field(default=1e-5, gt=0, lt=1)
        dp_epsilon: float | None = Field(default=None, gt=0)
        max_grad_norm: float = Field(default=1.0, gt=0)

        @model_validator(mode="after")
        def _noise_or_target(self) -> DPSGD.Config:
            if self.noise_multiplier is None and self.dp_epsilon is None:
                raise ValueError("give noise_multiplier or dp_epsilon")
            return self


class FedAvg(Plug):
    sheet = Sheet("FedAvg", "a paper", "A, B", "A, B", "A, B", "no", "none", sums_only=True)


class FedProx(FedAvg):
    class Config(registry.Config):
        mu: float = Field(default=0.1, ge=0, multiple_of=0.1)


def family(name: str, **classes: type[Plug]) -> Registry[Any]:
    return Registry(name, Plug, classes)


FAMILIES: Families = {
    "data": family("data source", table=Table),
    "partition": family("partitioner", dirichlet=Dirichlet, iid=Iid),
    "model": family("model", embedded=Embedded, hub=Hub),
    "privacy": family("privacy mechanism", dp_sgd=DPSGD, none=Plug),
    "strategy": family("strategy", fedavg=FedAvg, fedprox=FedProx),
    "upload": CODECS,
    "download": CODECS,
    "secure_aggregation": PROTOCOLS,
}
