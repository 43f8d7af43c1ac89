"""What a text is about, as the frozen base model sees it: its mean-pooled last hidden states.

Embeddings are made once per model and texts: a later run reads them from the user's cache, found by content. A cache
that cannot be written or read costs time, never a run.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedsim.core.rows import Corpus
from fedsim.models.base import BaseModel
from fedsim.models.cache import SMALL, key

BATCH_TOKENS = 4096  # padded, of one forward pass


def cache_folder() -> Path:
    return Path.home() / ".cache" / "fedsim" / "embeddings"


def embeddings(model: BaseModel, corpus: Corpus, folder: Path | None = None) -> np.ndarray:
    """(n, d) float32: ``model.embed(corpus.prompts)``, from the cache where it holds these texts."""
    if len(corpus) < SMALL:
        return model.embed(corpus.prompts)
    digest = hashlib.sha256(f"{key(model, corpus)} {model.weights_mark()}".encode()).hexdigest()
    path = (folder or cache_folder()) / f"{digest}.npy"
    found = _read(path, len(corpus))
    if found is None:
        found = model.embed(corpus.prompts)
        _write(path, found)
    return found


def mean_pooled(network: torch.nn.Module, rows: Sequence[Sequence[int]], pad_id: int) -> np.ndarray:
    """(n, d) float32: the mean over each row's tokens of the last hidden state; ``network`` is one without a head."""
    device = next(network.parameters()).device
    pooled: dict[int, np.ndarray] = {}
    for part in _batches([len(row) for row in rows]):
        width = max(1, *(len(rows[index]) for index in part))  # (k, t)
        ids = torch.tensor([[*rows[index], *[pad_id] * (width - len(rows[index]))] for index in part], device=device)
        lengths = torch.tensor([len(rows[index]) for index in part], device=device)
        mask = (torch.arange(width, device=device) < lengths[:, None]).long()
        with torch.no_grad():
            hidden: Any = network(input_ids=ids, attention_mask=mask).last_hidden_state  # (k, t, d)
        means = (hidden.float() * mask[:, :, None]).sum(dim=1) / lengths.clamp(min=1)[:, None]
        pooled |= dict(zip(part, means.cpu().numpy(), strict=True))
    return np.stack([pooled[index] for index in range(len(rows))])


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows of similar length together, as many as ``BATCH_TOKENS`` hold when padded."""
    part: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if part and (len(part) + 1) * lengths[index] > BATCH_TOKENS:
            yield part
            part = []
        part.append(index)
    if part:
        yield part


def _read(path: Path, count: int) -> np.ndarray | None:
    """What the file holds; None when there is none, or it is damaged."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.ndim == 2 and len(found) == count else None


def _write(path: Path, values: np.ndarray) -> None:
    """Write by rename, so that a reader sees a whole file or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            np.save(file, values)
        os.replace(file.name, path)
    except OSError:
        return
