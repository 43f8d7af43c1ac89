"""Tokens are made once: the second run of a scenario reads them from the user's cache, found by content.

The key covers every prompt, every answer and whatever changes the tokenizer's output; the file is a zip archive, whose
checksums are verified on reading. A cache that cannot be written or read costs time, never a run.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from fedsim.core.rows import Corpus, Rows, TokenRows
from fedsim.models.base import BaseModel

FORMAT = "1"
SMALL = 2_000  # fewer rows than this are tokenised faster than a cache is worth


def cache_folder() -> Path:
    return Path.home() / ".cache" / "fedsim" / "tokens"


def encode(model: BaseModel, corpus: Corpus, folder: Path | None = None) -> Rows:
    """``model.encode(corpus)``, from the cache where it holds these rows."""
    if len(corpus) < SMALL or corpus.images is not None:  # images are not tokenised
        return model.encode(corpus)
    path = (folder or cache_folder()) / f"{key(model, corpus)}.npz"
    found = read(path)
    if found is not None:
        return found
    rows = model.encode(corpus)
    if isinstance(rows, TokenRows):
        write(path, rows)
    return rows


def key(model: BaseModel, corpus: Corpus) -> str:
    """SHA-256 over the tokenizer's fingerprint and every text."""
    digest = hashlib.sha256(f"{FORMAT}\x1f{model.fingerprint()}".encode())
    for texts in (corpus.prompts, corpus.answers, corpus.label_words):
        digest.update("\x1e".join(texts).encode() + b"\x1d")
    return digest.hexdigest()


def read(path: Path) -> TokenRows | None:
    """The cached rows, or None when there are none or the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            words = tuple(tuple(int(token) for token in word if token >= 0) for word in file["label_ids"])
            return TokenRows(file["ids"], file["offsets"], file["answer_starts"], file["labels"], words)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def write(path: Path, rows: TokenRows) -> None:
    """Write by rename, so that a reader sees a whole file or none."""
    width = max((len(word) for word in rows.label_ids), default=0)
    words = np.full((len(rows.label_ids), width), -1, dtype=np.int64)
    for number, word in enumerate(rows.label_ids):
        words[number, : len(word)] = word
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            np.savez(
                file,
                ids=rows.ids,
                offsets=rows.offsets,
                answer_starts=rows.answer_starts,
                labels=rows.labels,
                label_ids=words,
            )
        os.replace(file.name, path)
    except OSError:
        return
