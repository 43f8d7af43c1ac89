"""Every bank's privacy mechanism, from the scenario's terms and the bank's public numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fedsim.build.secure import num_summed
from fedsim.build.split import shared_customers
from fedsim.core.errors import PrivacyConfigError, Problem
from fedsim.core.rows import BankRows, Corpus
from fedsim.core.scenario import Plugin, Scenario
from fedsim.engine.resources import in_a_round
from fedsim.privacy import MECHANISMS, BankPlan, Mechanism
from fedsim.privacy.accounting import bound_of
from fedsim.privacy.sources import RunKey
from fedsim.train.sampling import steps_of

Together = tuple[tuple[str, ...], ...]  # names of banks that have a customer in common


def bank_plans(
    scenario: Scenario,
    banks: tuple[BankRows, ...],
    num_banks: int,
    units: np.ndarray | None = None,
    joins: Mapping[str, int] | None = None,
) -> list[BankPlan]:
    """Every bank's sampling. An expected batch is never larger than the bank; a pooled one is a whole round's.

    ``joins`` holds the first round of banks that are not there from the beginning: they train in fewer.
    """
    train, plans = scenario.train, []
    pooled = scenario.strategy.kind == "pooled"
    times = in_a_round(scenario.client_fraction, num_banks) if pooled else 1
    mechanism = MECHANISMS[scenario.privacy.kind]
    for bank in banks:
        rate = train.sample_rate or 0.0
        size = rate * bank.num_examples if train.batch_size is None else train.batch_size * times
        size = min(size, bank.num_examples)
        if train.sampling == "fixed":
            size = max(1, round(size))
        rounds = scenario.num_rounds + 1 - (joins or {}).get(bank.name, 1)
        steps = steps_of(train.local_steps, train.local_epochs, bank.num_examples, size)
        plans.append(
            BankPlan(
                name=bank.name,
                num_examples=bank.num_examples,
                batch_size=size,
                steps_per_round=steps,
                num_rounds=mechanism.rounds_of_a_bank(rounds, len(banks), scenario.client_fraction),
                num_units=None if units is None else len(np.unique(units[bank.train])),
                num_banks=len(banks),
                bank_rate=scenario.client_fraction,
                num_summed=num_summed(scenario, len(banks)),
                sampling=train.sampling,
            )
        )
    return plans


def together(scenario: Scenario, banks: tuple[BankRows, ...], units: np.ndarray | None) -> Together:
    """The sets of banks whose charges add up, as a customer that is protected has rows at all of them."""
    return shared_customers(banks, units) if MECHANISMS[scenario.privacy.kind].per_unit and units is not None else ()


def of_customers(mechanisms: Mapping[str, Mechanism], sets: Together) -> list[tuple[float, tuple[str, ...]]]:
    """(epsilon when all rounds are over, the banks) of every set, the largest first; inf without noise.

    PrivacyConfigError where noise that was calibrated bank by bank takes a customer of several banks above dp_epsilon.
    """
    terms = next(iter(mechanisms.values())).terms
    if terms is None or not sets:
        return []
    spends = {bank: mechanism.whole_spend() for bank, mechanism in mechanisms.items()}
    told = []
    for banks in sets:
        paid = [spend for bank in banks if (spend := spends[bank]) is not None]
        told.append((bound_of(paid, terms.dp_delta, terms.accountant).epsilon, banks))
    told.sort(key=lambda one: (-one[0], one[1]))
    epsilon, banks = told[0]
    if terms.dp_epsilon is not None and getattr(terms, "noise_multiplier", None) is None and epsilon > terms.dp_epsilon:
        message = (
            f"{terms.dp_epsilon:g} is what each bank may spend, and a customer of {', '.join(banks)} spends "
            f"{epsilon:.3g} at all of them; lower dp_epsilon until that is affordable, give noise_multiplier beside it "
            "(the run then stops in time), or split by a column that keeps a customer's rows together"
        )
        raise PrivacyConfigError([Problem("", "privacy.dp_epsilon", message)])
    return told


def told_of(customers: Sequence[tuple[float, tuple[str, ...]]]) -> tuple[str, ...]:
    """A sentence about the worst of ``of_customers``, if there is one."""
    if not customers:
        return ()
    epsilon, banks = customers[0]
    return (
        f"Customers have rows at several banks, and what these spend on them adds up: one of {', '.join(banks)} ends "
        f"with epsilon {epsilon:.3g} when all rounds are run.",
    )


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
