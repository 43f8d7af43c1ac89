"""Rows as values: text or images as a source reads them, what a model makes of them, and which bank holds which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Corpus:
    """Every row of a data source as prompt and answer, train and test together.

    With label words the answer of row i is ``label_words[labels[i]]``; for free text ``label_words`` is empty and
    ``labels`` is all -1. ``columns`` holds what partitioners may look at, each of length n; "label" is always there
    when there are label words. Rows of images have label words and empty prompts.
    """

    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    labels: np.ndarray  # (n,) int64, index into label_words, or -1
    label_words: tuple[str, ...]
    test: np.ndarray  # (n,) bool
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    images: np.ndarray | None = None  # (n, height, width, channels): uint8 from 0 to 255, or float32 as it is
    units: np.ndarray | None = None  # (n,) int64: whose row it is; None when the data do not say

    def __len__(self) -> int:
        return len(self.prompts)


class Rows(Protocol):
    """Encoded rows as the trainer sees them; the rest is between a model's ``encode`` and its ``batch``."""

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64 index into the label words, or -1"""

    def __len__(self) -> int: ...

    def lengths(self, indices: np.ndarray) -> np.ndarray:
        """(len(indices),) what a row costs in a forward pass: rows of similar length are run together."""


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Tokenised rows in one ragged buffer; row i is ``ids[offsets[i]:offsets[i + 1]]``, prompt then answer.

    ``answer_starts[i]`` is the position inside the row at which the answer begins; the loss is on the answer only.
    ``label_ids`` are the token ids of each label word as it stands after a prompt; empty for free text.
    """

    ids: np.ndarray  # (total,) int32
    offsets: np.ndarray  # (n + 1,) int64
    answer_starts: np.ndarray  # (n,) int32
    labels: np.ndarray  # (n,) int64
    label_ids: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> np.ndarray:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def lengths(self, indices: np.ndarray) -> np.ndarray:
        lengths: np.ndarray = self.offsets[indices + 1] - self.offsets[indices]
        return lengths


@dataclass(frozen=True, slots=True)
class ImageRows:
    """Images of one size and their classes."""

    images: np.ndarray  # (n, height, width, channels) uint8 or float32
    labels: np.ndarray  # (n,) int64

    def __len__(self) -> int:
        return len(self.labels)

    def lengths(self, indices: np.ndarray) -> np.ndarray:
        return np.ones(len(indices), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class BankRows:
    """One bank's share of the rows, as sorted indices into the corpus."""

    name: str
    train: np.ndarray  # (n_k,) int64
    test: np.ndarray  # (m_k,) int64
    public: int | None = None  # the number of training rows that is told, where an audit must not tell the true one

    @property
    def num_examples(self) -> int:
        return len(self.train) if self.public is None else self.public
