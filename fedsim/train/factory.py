"""How a trainer comes to be in another process: a description that pickles and loads the model where it is called."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedsim.core.rows import Rows
from fedsim.core.scenario import Lora
from fedsim.models.base import BaseModel
from fedsim.train.heap import keep_big_blocks
from fedsim.train.trainer import LocalTraining, Trainer


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
        return Trainer(self.model.load(self.lora, self.num_labels), self.rows, self.local)
