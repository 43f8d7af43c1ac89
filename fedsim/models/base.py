"""The contract of a base model: a description that travels, and the loaded model that plays banks.

``BaseModel`` is cheap and picklable: it tokenises on the driver and exports adapters without loading any weights.
``CohortModel`` is what an actor holds: the frozen weights once, whatever the number of banks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.core.adapter import AdapterState, stack
from fedsim.core.errors import ModelError
from fedsim.core.registry import NoKnobs
from fedsim.core.rows import Corpus, Rows
from fedsim.core.sections import Lora
from fedsim.models.lora import Cohort, CohortLinear, Running
from fedsim.models.sharing import adopt, align, frozen_bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts ready for a forward pass: n rows of t tokens."""

    input_ids: Tensor  # (n, t) int64
    attention_mask: Tensor  # (n, t) int64, 1 for a token
    answer_lengths: Tensor  # (n,) tokens of the answer at the end of the row; 0 for classification
    labels: Tensor  # (n,) int64, -1 for free text
    ids: np.ndarray  # (n,) which texts these are: the same id, the same tokens

    def take(self, rows: np.ndarray) -> Batch:
        """These rows of the batch, padded as they were."""
        index = torch.from_numpy(rows).to(self.input_ids.device)
        return Batch(
            self.input_ids[index],
            self.attention_mask[index],
            self.answer_lengths[index],
            self.labels[index],
            self.ids[rows],
        )


@dataclass(frozen=True, slots=True)
class Outline:
    """What a loaded model will look like."""

    adapter: AdapterState  # the shapes, factors and scaling of a new adapter; its values mean nothing
    weight_bytes: int  # of the frozen weights in memory


class CohortModel(ABC):
    """A frozen model in memory whose adapted layers hold a bank axis.

    ``rows`` are what the model's own ``BaseModel.encode`` returned; a batch is between ``batch`` and ``row_losses``.
    """

    def __init__(self, network: nn.Module, running: Running) -> None:
        self.network, self.running = network, running
        self.device = next(network.parameters()).device
        self.is_aligned = False  # the weights, which another process' may replace before they are used

    @abstractmethod
    def new_adapter(self, seed: int) -> AdapterState:
        """Initial values, drawn from ``seed``, for this model and LoRA configuration."""

    @abstractmethod
    def batch(self, rows: Any, indices: np.ndarray) -> Any:
        """These rows, ready for a forward pass."""

    @abstractmethod
    def row_losses(self, batch: Any) -> Tensor:
        """(n,) each row's own mean loss (of a text: over its answer tokens), never a mean over the batch.

        A batch mean would make one row's gradient depend on the others, and clipping would bound nothing.
        """

    @abstractmethod
    def label_scores(self, rows: Any, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """((n, labels) length-normalised log-likelihood of each label, (n,) loss of the true answer), float64.

        For free text there are no labels: (n, 0).
        """

    def remember(self, rows: Any, trained: Sequence[np.ndarray], scored: Sequence[np.ndarray]) -> None:
        """Keep what never changes of rows that will be run again, where the model has such a part.

        ``trained`` and ``scored`` are groups of rows that are computed together, at whichever of them is needed first.
        """
        return

    def answers(self, rows: Any, indices: np.ndarray, max_new_tokens: int) -> list[tuple[str, str]]:
        """(the answer written by always the likeliest token, the true answer) of each row. ModelError without text."""
        raise ModelError("this model writes no text; leave out the metrics of written answers", "evaluate.metrics")

    def weights(self) -> list[np.ndarray]:
        """The frozen weights as bytes, for other processes of this machine."""
        return frozen_bytes(self.network)

    def adopt(self, weights: Sequence[np.ndarray]) -> int:
        """Use the ``weights`` of a process that has loaded the same model; how many bytes are shared from now on."""
        return adopt(self.network, weights)

    @contextmanager
    def using(self, cohort: Cohort) -> Iterator[None]:
        """Run forward passes with these adapters."""
        if not self.is_aligned:
            align(self.network)
            self.is_aligned = True
        self.running.cohort = cohort
        try:
            yield
        finally:
            self.running.cohort = None

    def set_frozen(self, frozen: Sequence[AdapterState]) -> None:
        """Lay frozen adapters under the trained one, for all rows."""
        merged = stack(frozen, [1.0] * len(frozen)).tensors if frozen else {}
        for module in self.network.modules():
            if isinstance(module, CohortLinear):
                a, b = merged.get(f"{module.name}.A"), merged.get(f"{module.name}.B")
                module.frozen = None if a is None or b is None else (a.to(self.device), b.to(self.device))


class BaseModel(ABC):
    """What a scenario's ``model:`` entry becomes."""

    Config: ClassVar[type] = NoKnobs

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def encode(self, corpus: Corpus) -> Rows:
        """Tokenise every row once. ModelError when the tokenizer cannot be loaded or the rows are of another kind."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever ``encode`` might give other tokens: part of the cache key."""

    def notes(self) -> list[str]:
        """Sentences for the user that a run begins with."""
        return []

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) float32: each text as the frozen base sees it. ModelError of a model that reads no text."""
        raise ModelError("this model reads no text, so there are no topics to split by; use another partition")

    def weights_mark(self) -> str:
        """Changes whenever ``embed`` might give other numbers, beside what ``fingerprint`` covers."""
        return ""

    def check(self, lora: Lora, num_labels: int) -> None:
        """ModelError for what ``load`` would refuse, as far as that is seen without weights: before actors start."""
        return

    @abstractmethod
    def outline(self, lora: Lora, num_labels: int) -> Outline:
        """The shapes that ``load`` gives, without its weights. ModelError as ``check`` raises it."""

    @abstractmethod
    def load(self, lora: Lora, num_labels: int) -> CohortModel:
        """Load and quantise the frozen weights. ModelError names the model and the remedy."""

    @abstractmethod
    def export(self, folder: Path, adapter: AdapterState, frozen: Sequence[AdapterState], lora: Lora) -> None:
        """Write the adapter as a folder; that of a language model is one that ``PeftModel.from_pretrained`` loads."""


@contextmanager
def seeded_torch(seed: int) -> Iterator[None]:
    """For libraries that draw from torch's global generator: they draw from ``seed``, and its state is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
