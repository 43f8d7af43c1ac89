"""Frozen base models whose adapted layers hold a bank axis. The only owner of transformers, peft and bitsandbytes."""

from fedsim.core.registry import Registry
from fedsim.models.base import BaseModel, CohortModel
from fedsim.models.embedded_model import Embedded
from fedsim.models.hf import HuggingFace
from fedsim.models.vision import ResNetModel

MODELS: Registry[BaseModel] = Registry(
    "model",
    BaseModel,  # type: ignore[type-abstract]
    {
        "embedded": Embedded,
        "hf": HuggingFace,
        "resnet": ResNetModel,
    },
)

__all__ = ["MODELS", "BaseModel", "CohortModel"]
