"""The small language model that ships with fedsim, so that a scenario runs with no download."""

from __future__ import annotations

from importlib.resources import files

from fedsim.models.hf import BaseConfig, HuggingFace


class Embedded(HuggingFace):
    """``kind: embedded``: a Llama-architecture causal LM made by ``fedsim.models.embedded.pretrain``."""

    class Config(BaseConfig):
        pass

    @property
    def source(self) -> str:
        return str(files("fedsim.models").joinpath("embedded"))
