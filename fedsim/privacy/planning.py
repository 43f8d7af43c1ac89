"""What the user is told about privacy before training starts, from public numbers only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from fedsim.privacy.accounting import bound_of, steps_within
from fedsim.privacy.base import Mechanism

MAX_SENTENCES = 20  # banks that are told about
BANKS = "\x00"  # in a sentence, where the names go


def delta_problems(delta: float, smallest: int) -> list[str]:
    """At delta = 1/n publishing one whole row would count as private; advised is a power of ten below a tenth of it.

    ``smallest`` is the least number of rows, or of customers where these are protected, that a bank has.
    """
    if delta < 1 / smallest:
        return []
    advice = 10.0 ** math.floor(-math.log10(10 * smallest))
    return [f"delta {delta:g} >= 1/{smallest} (smallest bank); use <= {advice:g}"]


def describe(mechanisms: Sequence[Mechanism]) -> list[str]:
    """Where every bank's epsilon ends, or what dp_epsilon buys; banks of which the same is true share a sentence.

    Highest sampling rates first.
    """
    ranked = sorted(mechanisms, key=lambda mechanism: -mechanism.plan.sample_rate)
    banks: dict[str, list[str]] = {}  # by what is true of them
    for mechanism in ranked[:MAX_SENTENCES]:
        told = _sentence(mechanism)
        if told is None:
            return ["No differential privacy: nothing bounds what an update reveals about a row (epsilon is infinite)."]
        banks.setdefault(told, []).append(mechanism.plan.name)
    sentences = [told.replace(BANKS, _named(names)) for told, names in banks.items()]
    more = len(ranked) - MAX_SENTENCES
    if more > 0:
        sentences.append(f"{more} more banks have no higher sampling rate.")
    return [*sentences, *filter(None, [mechanisms[0].promise, _of_the_noise(mechanisms[0])])]


def _named(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} banks"


def _of_the_noise(mechanism: Mechanism) -> str:
    if mechanism.terms is None:
        return ""
    if mechanism.terms.noise == "secure":
        return "Noise and sampling come from a secret key and not from the scenario's seed."
    return "The noise is a simulation's: it comes from the scenario's seed, and whoever knows the seed can subtract it."


def _sentence(mechanism: Mechanism) -> str | None:
    """With BANKS in the place of the bank's name."""
    terms, plan = mechanism.terms, mechanism.plan
    spend = mechanism.spend(plan.steps_per_round)
    if terms is None or spend is None:
        return None
    noise, rate = spend.noise_multiplier, spend.sample_rate
    where = f"at {BANKS} (sample rate {rate:.3g})"
    end = replace(spend, num_steps=plan.num_rounds * spend.num_steps)
    bound = bound_of([end], terms.dp_delta, terms.accountant)
    epsilon = f"epsilon {bound.epsilon:.3g} ({bound.method}, delta {terms.dp_delta:g})"
    if terms.dp_epsilon is None:
        return f"noise_multiplier {noise:.4g} over {plan.num_rounds} rounds ends {where} with {epsilon}"
    budget = f"dp_epsilon {terms.dp_epsilon:g} at noise_multiplier {noise:.4g} buys"
    bought = steps_within(terms.dp_epsilon, terms.dp_delta, end, terms.accountant)
    if bought < end.num_steps:
        return f"{budget} {bought // spend.num_steps} of {plan.num_rounds} rounds {where}"
    return f"{budget} all {plan.num_rounds} rounds {where}, which ends with {epsilon}"
