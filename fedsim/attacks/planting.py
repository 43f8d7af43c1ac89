"""Rows that train or stay out by the toss of a coin, so that what an attacker says about them can be right or wrong.

    canaries   rows as strange to a model as they can be, so that what it learns from one, it learns from no other:
               the easiest to find, hence the tightest bound
    members    a bank's own rows as they are: what the membership attacks are about

Planted rows are in the corpus, belong to a bank and go through tokeniser, batches, clipping and noise like any other;
a row whose coin says "out" is in nobody's batches. A bank's public number of rows does not follow the coins: it counts
every planted row as half, so that neither a sampling rate nor a weight gives a coin away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedsim.core import seeds
from fedsim.core.errors import DataError
from fedsim.core.rows import BankRows, Corpus

MOST_ORDINARY = 64  # rows of a bank by which an attacker tells what all rows have in common


@dataclass(frozen=True)
class Planted:
    """The planted rows of all banks, sorted by bank, and one outcome of their coins."""

    rows: np.ndarray  # (m,) int64 indices into the corpus
    banks: np.ndarray  # (m,) names
    canary: np.ndarray  # (m,) bool: a canary, else a member
    included: np.ndarray  # (m,) bool: trains

    def at(self, bank: str) -> np.ndarray:
        """Positions of a bank's rows."""
        return np.flatnonzero(self.banks == bank)


def plant(banks: Sequence[BankRows], canaries: int, members: int, seed: int) -> Planted:
    """So many rows of each kind at every bank, and their coins. DataError where they would be most of a bank's rows."""
    rows, names, kinds = [], [], []
    for bank in banks:
        if 2 * (canaries + members) > len(bank.train):
            raise DataError(
                f"bank {bank.name!r} has {len(bank.train)} training rows, and {canaries + members} of them are to be "
                "planted: at most half may be; lower audit.canaries or audit.members",
                "audit",
            )
        rows.append(seeds.rng(seed, "planted", bank.name).choice(bank.train, canaries + members, replace=False))
        names += [bank.name] * (canaries + members)
        kinds += [True] * canaries + [False] * members
    together = np.concatenate(rows)
    return tossed(Planted(together, np.array(names), np.array(kinds), np.zeros(len(together), bool)), seed, 0)


def tossed(planted: Planted, seed: int, run: int) -> Planted:
    """The same rows with the coins of a run: 0 is the audited one, others are an attacker's shadow runs."""
    return replace(planted, included=seeds.rng(seed, "coins", run).random(len(planted.rows)) < 0.5)


def ordinary(banks: Sequence[BankRows], planted: Planted, seed: int) -> dict[str, np.ndarray]:
    """By bank, at most MOST_ORDINARY rows that are not planted, as an attacker knows them."""
    chosen = {}
    for bank in banks:
        rest = np.setdiff1d(bank.train, planted.rows)
        chosen[bank.name] = seeds.rng(seed, "ordinary", bank.name).permutation(rest)[:MOST_ORDINARY]
    return chosen


def training(banks: Sequence[BankRows], planted: Planted) -> tuple[BankRows, ...]:
    """The banks without the rows whose coins say "out"."""
    out = planted.rows[~planted.included]
    made = []
    for bank in banks:
        public = len(bank.train) - len(planted.at(bank.name)) // 2
        made.append(BankRows(bank.name, bank.train[~np.isin(bank.train, out)], bank.test, public))
    return tuple(made)


def with_canaries(corpus: Corpus, planted: Planted, seed: int) -> Corpus:
    """The corpus with something at every canary that no ordinary row teaches.

    Its words are drawn from all canaries' prompts, or its pixels are shuffled, and its label is a wrong one; where
    answers are free text, it has another canary's answer.
    """
    rows, rng = planted.rows[planted.canary], seeds.rng(seed, "canaries")
    labels, answers, prompts = corpus.labels.copy(), list(corpus.answers), list(corpus.prompts)
    if corpus.label_words:
        count = len(corpus.label_words)
        labels[rows] = (labels[rows] + rng.integers(1, count, len(rows))) % count
        for row in rows:
            answers[row] = corpus.label_words[labels[row]]
    else:
        order = rng.permutation(rows)
        for row, other in zip(order, np.roll(order, 1), strict=True):
            answers[row] = corpus.answers[other]
    words = [word for row in rows for word in corpus.prompts[row].split()]
    for row in rows:
        prompts[row] = " ".join(rng.choice(words, len(prompts[row].split()))) if prompts[row] else ""
    images = None if corpus.images is None else _shuffled(corpus.images, rows, rng)
    return replace(corpus, labels=labels, answers=tuple(answers), prompts=tuple(prompts), images=images)


def _shuffled(images: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    made = images.copy()
    for row in rows:
        made[row] = rng.permutation(images[row].reshape(-1, images.shape[-1])).reshape(images[row].shape)
    return made
