"""Which bank holds, trains on and is tested on which rows of a scenario, and how the base model sees their texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fedsim.core import seeds
from fedsim.core.errors import DataError, blaming
from fedsim.core.rows import BankRows, Corpus
from fedsim.core.scenario import Scenario
from fedsim.data import PARTITIONERS, split_banks
from fedsim.data.leaks import separating
from fedsim.data.text import Template
from fedsim.models import MODELS
from fedsim.models.embedding import embeddings

MOST_SETS = 64  # of banks with customers in common, that are accounted apart


@dataclass(frozen=True)
class Division:
    """Which bank holds which rows; ``left_out`` are the banks without a training row."""

    banks: tuple[BankRows, ...]
    left_out: tuple[BankRows, ...] = ()
    embeddings: np.ndarray | None = None  # (n, d) of the prompts, where the split was made by them


def divide(scenario: Scenario, corpus: Corpus, seen: np.ndarray | None) -> Division:
    """By what is ``seen`` of the texts, as ``needed``. DataError when the banks cannot train or cannot be tested."""
    partitioner = PARTITIONERS.create(scenario.partition.kind, scenario.partition.knobs)
    least = 1 if scenario.failures.no_rows == "error" else 0
    with blaming("partition"):
        split = split_banks(corpus, partitioner, scenario.seed, least, seen)
        banks = tuple(bank for bank in split if len(bank.train))
        if not banks:
            raise DataError("no bank has a training row")
    if not any(len(bank.test) for bank in banks):
        raise DataError("no bank has a test row; add test, e.g. test: {fraction: 0.2}", "data")
    return Division(banks, tuple(bank for bank in split if not len(bank.train)), seen)


def without_rows(banks: tuple[BankRows, ...]) -> Iterator[str]:
    """A sentence on the banks that are left out."""
    if banks:
        names = ", ".join([bank.name for bank in banks[:8]] + ["..."] * (len(banks) > 8))
        yield f"Left out, without a training row (failures.no_rows: skip): {names}."


def leaks(scenario: Scenario, corpus: Corpus) -> list[str]:
    """A sentence for every column of the prompt's template that tells the label by itself."""
    text = scenario.data.knobs.get("text")
    columns = Template.parse(text).columns if isinstance(text, str) else ()
    return [
        f"Column {name!r} alone separates the label (AUC {area:.3f}): leave it out of data.text unless that is meant."
        for name, area in separating(corpus, columns)
    ]


def needed(scenario: Scenario, corpus: Corpus) -> np.ndarray | None:
    """``embed`` where the scenario's partitioner looks at embeddings; the model is loaded for no other."""
    return embed(scenario, corpus) if PARTITIONERS[scenario.partition.kind].embeds else None


def embed(scenario: Scenario, corpus: Corpus) -> np.ndarray:
    """(n, d) float32 of the corpus' prompts by the scenario's frozen base model. ModelError where it reads no text."""
    with blaming("model"):
        return embeddings(MODELS.create(scenario.model.kind, scenario.model.knobs), corpus)


def shared_customers(banks: Sequence[BankRows], units: np.ndarray) -> tuple[tuple[str, ...], ...]:
    """The sets of banks, in bank order, at which some customer has training rows at once; none within another.

    Where they are more than MOST_SETS, the one set of all their banks, which is charged no less.
    """
    homes: dict[object, list[int]] = {}
    for place, bank in enumerate(banks):
        for customer in np.unique(units[bank.train]).tolist():
            homes.setdefault(customer, []).append(place)
    common = {frozenset(places) for places in homes.values() if len(places) > 1}
    sets: list[frozenset[int]] = []
    for one in sorted(common, key=len, reverse=True):
        if not any(one < other for other in sets):
            sets.append(one)
        if len(sets) > MOST_SETS:
            sets = [frozenset[int]().union(*common)]
            break
    return tuple(tuple(banks[place].name for place in places) for places in sorted(map(sorted, sets)))


def training_banks(scenario: Scenario, banks: tuple[BankRows, ...]) -> tuple[BankRows, ...]:
    """The banks that train: pooled training has one, which holds all rows."""
    if scenario.strategy.kind != "pooled":
        return banks
    train, test = (np.sort(np.concatenate([getattr(bank, part) for bank in banks])) for part in ("train", "test"))
    return (BankRows("pooled", train, test),)


def test_rows(scenario: Scenario, banks: tuple[BankRows, ...]) -> tuple[BankRows, ...]:
    """The banks with at most ``evaluate.max_rows`` test rows in all, drawn once for the run."""
    limit = scenario.evaluate.max_rows
    everyone = np.concatenate([bank.test for bank in banks])
    if limit is None or len(everyone) <= limit:
        return banks
    chosen = seeds.rng(scenario.seed, "evaluate").choice(everyone, limit, replace=False)
    return tuple(BankRows(bank.name, bank.train, bank.test[np.isin(bank.test, chosen)]) for bank in banks)
