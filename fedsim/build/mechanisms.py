"""Every bank's privacy mechanism, from the scenario's terms and the bank's public numbers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from fedsim.build.secure import num_summed
from fedsim.build.split import refuse_shared_units
from fedsim.core.errors import PrivacyConfigError, Problem
from fedsim.core.rows import BankRows, Corpus
from fedsim.core.scenario import Plugin, Scenario
from fedsim.privacy import MECHANISMS, BankPlan, Mechanism
from fedsim.privacy.sources import RunKey
from fedsim.train.sampling import steps_of


def bank_plans(
    scenario: Scenario, banks: tuple[BankRows, ...], num_banks: int, units: np.ndarray | None = None
) -> list[BankPlan]:
    """Every bank's sampling. An expected batch is never larger than the bank; a pooled one is a whole round's."""
    train, plans = scenario.train, []
    pooled = scenario.strategy.kind == "pooled"
    times = max(1, round(scenario.client_fraction * num_banks)) if pooled else 1
    mechanism = MECHANISMS[scenario.privacy.kind]
    if mechanism.per_unit and units is not None:
        refuse_shared_units(banks, units)
    for bank in banks:
        rate = train.sample_rate or 0.0
        size = rate * bank.num_examples if train.batch_size is None else train.batch_size * times
        size = min(size, bank.num_examples)
        if train.sampling == "fixed":
            size = max(1, round(size))
        steps = steps_of(train.local_steps, train.local_epochs, bank.num_examples, size)
        plans.append(
            BankPlan(
                name=bank.name,
                num_examples=bank.num_examples,
                batch_size=size,
                steps_per_round=steps,
                num_rounds=mechanism.rounds_of_a_bank(scenario.num_rounds, len(banks), scenario.client_fraction),
                num_units=None if units is None else len(np.unique(units[bank.train])),
                num_banks=len(banks),
                bank_rate=scenario.client_fraction,
                num_summed=num_summed(scenario, len(banks)),
                sampling=train.sampling,
            )
        )
    return plans


def make_mechanisms(privacy: Plugin, plans: list[BankPlan]) -> dict[str, Mechanism]:
    """One mechanism per bank. PrivacyConfigError when the terms contradict the banks' sizes."""
    cls = MECHANISMS[privacy.kind]
    config = MECHANISMS.config(privacy.kind).model_validate(privacy.knobs)
    problems = cls.problems(config, plans)
    if problems:
        raise PrivacyConfigError(Problem(where="", key="privacy", message=message) for message in problems)
    return {plan.name: cls(config, plan) for plan in plans}


def hand_out_key(scenario: Scenario, corpus: Corpus, run_dir: Path, mechanisms: dict[str, Mechanism]) -> None:
    """Where noise is to be secure, every mechanism gets the run's key, bound to the scenario and its rows."""
    terms = next(iter(mechanisms.values())).terms
    if terms is None or terms.noise != "secure":
        return
    rows = hashlib.sha256(repr((corpus.prompts, corpus.answers)).encode())
    if corpus.images is not None:
        rows.update(np.ascontiguousarray(corpus.images).tobytes())
    file = Path(terms.noise_key).expanduser() if terms.noise_key else None
    key = RunKey.make(file, f"{scenario.digest()} {rows.hexdigest()}", run_dir)
    for mechanism in mechanisms.values():
        mechanism.key = key
