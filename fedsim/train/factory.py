"""How a trainer comes to be in another process: a description that pickles and loads the model where it is called."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedsim.core.latest import Latest
from fedsim.core.rows import Rows
from fedsim.core.sections import Lora
from fedsim.models.base import BaseModel, CohortModel
from fedsim.train.heap import keep_big_blocks
from fedsim.train.trainer import LocalTraining, Trainer

_loaded: Latest[CohortModel] = Latest()  # of this process: runs that follow each other share the base


@dataclass(frozen=True)
class TrainerFactory:
    """``threads`` is part of the result: it decides how a CPU product is split, and so its rounding."""

    model: BaseModel
    lora: Lora
    rows: Rows
    num_labels: int
    local: LocalTraining
    threads: int

    def __call__(self) -> Trainer:
        keep_big_blocks()
        torch.set_num_threads(self.threads)
        return Trainer(self.base(), self.rows, self.local)

    def base(self) -> CohortModel:
        """The model alone, to look at and not to train: in this process it is the one that trainers use."""
        return _loaded.get(self._model_key(), self._load)

    def _load(self) -> CohortModel:
        return self.model.load(self.lora, self.num_labels)

    def _model_key(self) -> str:
        """Changes with whatever ``load`` looks at."""
        config = self.model.config.model_dump_json()
        return f"{type(self.model).__qualname__} {config} {self.lora.model_dump_json()} {self.num_labels}"
