"""From a corpus and a partitioner to the banks of a run, in a fixed order and checked."""

from __future__ import annotations

import numpy as np

from fedsim.core import seeds
from fedsim.core.errors import DataError
from fedsim.core.rows import BankRows, Corpus
from fedsim.data.base import Partitioner, Split


def split_banks(
    corpus: Corpus, partitioner: Partitioner, seed: int, min_rows: int = 1, embeddings: np.ndarray | None = None
) -> tuple[BankRows, ...]:
    """The banks in the partitioner's order (natural ones by size, then name; numbered ones by number), rows sorted.

    Partitioners see the corpus' columns, ``prompt_length`` (characters) and ``embedding`` (n, d) where it is given.
    DataError when a bank has fewer than ``min_rows`` training rows or the partitioner cannot split; it ends with the
    knobs and the seed that led to it.
    """
    columns = {**corpus.columns, "prompt_length": np.array([len(prompt) for prompt in corpus.prompts])}
    if embeddings is not None:
        columns["embedding"] = embeddings
    try:
        partitioner.require(corpus)
        split = partitioner.split(columns, seeds.rng(seed, "partition"))
        _check(split, len(corpus))
        banks = tuple(_bank(name, rows, corpus.test) for name, rows in split.items())
        _refuse_small(banks, len(corpus), min_rows)
    except DataError as error:
        raise DataError(f"{error} ({_knobs(partitioner)}seed {seed})") from error
    return banks


def _bank(name: str, rows: np.ndarray, test: np.ndarray) -> BankRows:
    rows = np.sort(rows).astype(np.int64)
    return BankRows(name=name, train=rows[~test[rows]], test=rows[test[rows]])


def _check(split: Split, count: int) -> None:
    """A partitioner's promise, which one from outside may break: row indices, none at two banks."""
    owners = np.zeros(count, dtype=np.int64)
    for name, rows in split.items():
        outside = rows[(rows < 0) | (rows >= count)]
        if len(outside):
            raise DataError(f"{name} was given row {outside[0]} of {count} rows")
        np.add.at(owners, rows, 1)
    twice = np.flatnonzero(owners > 1)
    if len(twice):
        holders = [name for name, rows in split.items() if twice[0] in rows]
        raise DataError(f"row {twice[0]} was given out {owners[twice[0]]} times, to {' and '.join(holders)}")


def _refuse_small(banks: tuple[BankRows, ...], count: int, min_rows: int) -> None:
    small = [bank for bank in banks if len(bank.train) < min_rows]
    if small:
        first = small[0]
        total = len(first.train) + len(first.test)
        got = f"{len(first.train)} training rows and {len(first.test)} test rows" if total else f"0 of {count} rows"
        more = f", and {len(small) - 1} more banks are as small" if len(small) > 1 else ""
        raise DataError(f"{first.name} gets {got}{more}; {min_rows} needed: use fewer banks or a milder split")


def _knobs(partitioner: Partitioner) -> str:
    """What the user set, short: "alpha 0.01, num_banks 12, "."""
    given = partitioner.config.model_dump(exclude_unset=True)
    return "".join(f"{name} {str(value)[:60]}, " for name, value in given.items())
