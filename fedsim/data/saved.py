"""A split as values that a file can hold, and whether rows are those that it was made for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedsim.core.rows import BankRows, Corpus


def saved(corpus: Corpus, banks: Sequence[BankRows]) -> dict[str, Any]:
    """``{"fingerprint", "num_rows", "rows": {bank: [row, ...]}}``: what the partitioner ``file`` needs."""
    rows = {bank.name: np.sort(np.concatenate([bank.train, bank.test])).tolist() for bank in banks}
    return {"fingerprint": fingerprint(corpus), "num_rows": len(corpus), "rows": rows}


def fingerprint(corpus: Corpus) -> str:
    """SHA-256 over prompts, answers, images and which rows are test rows, in their order."""
    digest = hashlib.sha256()
    for texts in (corpus.prompts, corpus.answers):
        digest.update("\x1e".join(texts).encode() + b"\x1d")
    digest.update(np.ascontiguousarray(corpus.test).tobytes())
    if corpus.images is not None:
        digest.update(np.ascontiguousarray(corpus.images).tobytes())
    return digest.hexdigest()
