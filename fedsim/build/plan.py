"""``fedsim plan``: what a scenario will cost in privacy, bytes and memory, told before anything is trained.

The data are read and split, because sampling rates depend on the banks' sizes; of the model only the shapes are known,
no weights. Every number comes from the mechanisms, accountants and codecs that the run itself uses. What epsilon does
not cover is listed with it. Only ``build.measure_rows`` loads the model and trains, if asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.build.load import load_one
from fedsim.core.errors import ModelError
from fedsim.core.messages import Spend
from fedsim.core.rows import BankRows, Corpus, TokenRows
from fedsim.core.scenario import Scenario
from fedsim.engine.resources import Actors, in_a_round, num_cohorts
from fedsim.privacy import Mechanism, describe
from fedsim.privacy.accounting import pld_epsilon, rdp_epsilon, steps_within
from fedsim.privacy.prv import prv_epsilon
from fedsim.records.files import to_json
from fedsim.records.table import Table
from fedsim.records.text import UNKNOWN, human_bytes, human_epsilon

Plan = Mapping[str, Any]
NOWHERE = "no run directory"
INTS = np.zeros(0, dtype=np.int64)
NO_TEXTS = TokenRows(INTS.astype(np.int32), np.zeros(1, dtype=np.int64), INTS.astype(np.int32), INTS)
Customers = Sequence[tuple[float, tuple[str, ...]]]  # (epsilon, banks) of those with rows at several, the worst first

ALWAYS_OPEN = (
    "the number of rows of each bank, which sets its sampling rate",
    "metrics on test rows, training losses and shares of clipped rows that the run records",
    "choices made by looking at these: early stopping, tuning, picking the best round",
    "who takes part in a round, and how long a bank takes",
)
AS_WEIGHTS = "the number of rows of each bank as its weight in the mean"


def plan(
    path: Path,
    overrides: Sequence[str] = (),
    cross_check: bool = False,
    measure: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Plan:
    """The plan of a scenario file as plain values; with a third accountant's epsilon and measured, if asked for.

    ``tell`` is told how measuring goes. ScenarioError, DataError and, if measured, ModelError as of ``fedsim run``.
    """
    from fedsim.build.joins import joins_of
    from fedsim.build.mechanisms import bank_plans, make_mechanisms, of_customers, together
    from fedsim.build.prepare import load_corpus
    from fedsim.build.split import divide, needed, training_banks

    one = load_one(path, tuple(overrides))
    scenario = one.scenario
    with one.document.placing():
        corpus = load_corpus(scenario)
        division = divide(scenario, corpus, needed(scenario, corpus))
        banks = division.banks
        trained = training_banks(scenario, banks)
        late = joins_of(scenario, corpus, trained)
        made = make_mechanisms(scenario.privacy, bank_plans(scenario, trained, len(banks), corpus.units, late))
        mechanisms = list(made.values())
        told = plan_of(scenario, mechanisms, of_customers(made, together(scenario, trained, corpus.units)))
        told = {**told, "wire": wire(scenario, corpus, banks)}
        if cross_check:
            told = {**told, "cross_check": checked(mechanisms)}
        if measure:
            from fedsim.build.measure_rows import measured

            told = {**told, "measured": measured(scenario, corpus, division, tell)}
        return told


def wire(scenario: Scenario, corpus: Corpus, banks: tuple[BankRows, ...]) -> Mapping[str, Any]:
    """Bytes and memory; ``unknown`` says why not where the model is not at hand."""
    from fedsim.build.prepare import Material, make_job
    from fedsim.build.rehearsal import rehearsed
    from fedsim.models import MODELS

    model = MODELS.create(scenario.model.kind, scenario.model.knobs)
    try:
        outline = model.outline(scenario.lora, len(corpus.label_words))
    except ModelError as error:
        return {"unknown": str(error)}
    return rehearsed(make_job(scenario, Material(corpus, banks, model, NO_TEXTS), NOWHERE, exports=False), outline)


def checked(mechanisms: Sequence[Mechanism]) -> Mapping[str, Any]:
    """The worst bank's epsilon by every accountant; ``prv_method`` is "rdp" where PRV gave no answer in time."""
    planned = [(mechanism, spend) for mechanism in mechanisms if (spend := _whole(mechanism)) is not None]
    by_bank = [(rdp_epsilon([spend], m.terms.dp_delta), m, spend) for m, spend in planned if m.terms]
    if not by_bank:
        return {}
    rdp, worst, spend = max(by_bank, key=lambda one: one[0])
    delta = worst.terms.dp_delta if worst.terms else 0.0
    prv, method = prv_epsilon([spend], delta)
    tight = pld_epsilon([spend], delta).epsilon
    return {"bank": worst.plan.name, "rdp": rdp, "pld": tight, "prv": prv, "prv_method": method}


def plan_of(scenario: Scenario, mechanisms: Sequence[Mechanism], customers: Customers = ()) -> Plan:
    """The plan of a run with these banks, and with these customers of several banks."""
    first = mechanisms[0]
    cohort = in_a_round(scenario.client_fraction, len(mechanisms))
    actors = Actors(scenario.resources.num_actors, banks_per_actor=scenario.resources.banks_per_actor)
    banks = {mechanism.plan.name: _bank(mechanism) for mechanism in mechanisms}
    epsilons = [bank["epsilon"] for bank in banks.values()]
    open_ = ALWAYS_OPEN if first.central or first.needs_sum else (AS_WEIGHTS, *ALWAYS_OPEN)
    return {
        "scenario": scenario.name,
        "mechanism": scenario.privacy.kind,
        "num_rounds": scenario.num_rounds,
        "delta": first.terms.dp_delta if first.terms else None,
        "accountant": first.terms.accountant if first.terms else None,
        "epsilon": None if None in epsilons else max((*epsilons, *(epsilon for epsilon, _ in customers))),
        "customers": [{"banks": list(n), "epsilon": e if math.isfinite(e) else None} for e, n in customers],
        "banks": banks,
        "banks_per_round": first.plan.bank_rate * len(mechanisms) if first.central else cohort,
        "actors_at_most": scenario.resources.num_actors or num_cohorts(cohort, actors),
        "promise": [first.promise] if first.terms else describe(mechanisms),
        "not_protected": list(open_),
    }


def _whole(mechanism: Mechanism) -> Spend | None:
    """The charge of all rounds that a bank may take part in; None without noise."""
    spend = mechanism.whole_spend()
    return None if spend is None or spend.noise_multiplier == 0 else spend


def _bank(mechanism: Mechanism) -> dict[str, Any]:
    """One bank when it has taken part in every round. Epsilon is None where nothing bounds it."""
    plan, terms = mechanism.plan, mechanism.terms
    told: dict[str, Any] = {"num_train": plan.num_examples, "num_units": plan.num_units if mechanism.per_unit else None}
    spend = mechanism.spend(plan.steps_per_round)
    whole = _whole(mechanism)
    if terms is None or spend is None or whole is None:
        return {**told, "noise_multiplier": 0.0, "epsilon": None, "epsilon_pld": None, "rounds_bought": None}
    tight = pld_epsilon([whole], terms.dp_delta).epsilon
    bought = None
    if terms.dp_epsilon is not None:
        bought = steps_within(terms.dp_epsilon, terms.dp_delta, whole, terms.accountant) // spend.num_steps
    return {
        **told,
        "noise_multiplier": spend.noise_multiplier,  # as charged: deviation over sensitivity
        "sample_rate": spend.sample_rate,
        "releases_per_round": spend.num_steps,
        "epsilon": tight if terms.accountant == "pld" else rdp_epsilon([whole], terms.dp_delta),
        "epsilon_pld": tight,
        "rounds_bought": bought,
    }


def _of_the_check(check: Mapping[str, Any]) -> tuple[str, ...]:
    if not check:
        return ()
    third = "no answer in time" if check["prv_method"] == "rdp" else human_epsilon(check["prv"])
    first, second = human_epsilon(check["rdp"]), human_epsilon(check["pld"])
    return (f"worst bank {check['bank']}: RDP {first}, PLD {second}, PRV {third}",)


def _of_the_wire(told: Mapping[str, Any]) -> tuple[str, ...]:
    if not told or "unknown" in told:
        return (f"bytes and memory: not known ({told['unknown']})",) if told else ()
    rounds = "; ".join(
        f"round {row['round']}: {human_bytes(row['bytes_up'])} up, {human_bytes(row['bytes_down'])} down"
        for row in told["rounds"]
    )
    total = f"whole run: {human_bytes(told['bytes_up'])} up, {human_bytes(told['bytes_down'])} down"
    how = (
        "sizes follow from shapes" if told["exact"] else "of random values; codecs choose by value, so a run may differ"
    )
    weights, gradients = human_bytes(told["model_bytes"]), human_bytes(told["gradient_bytes"])
    return (
        f"{rounds}; {total}, if later rounds are like the second ({how})",
        f"memory at the least: {weights} of frozen weights (once per machine without GPUs, else in every actor) and "
        f"{gradients} of gradients in an actor; activations come on top",
    )


def as_json(told: Plan) -> str:
    return to_json(told)


def as_text(told: Plan) -> str:
    """A table of the banks, what is promised, and what is not."""
    rows = []
    for name, bank in told["banks"].items():
        rate, bought = bank.get("sample_rate"), bank["rounds_bought"]
        cells = (
            name,
            str(bank["num_train"]),
            UNKNOWN if rate is None else f"{rate:.3g}",
            f"{bank['noise_multiplier']:.4g}",
            human_epsilon(bank["epsilon"]),
            human_epsilon(bank["epsilon_pld"]),
            UNKNOWN if bought is None else f"{bought} of {told['num_rounds']}",
        )
        rows.append(cells)
    notes = (
        f"privacy: {told['mechanism']}; epsilon after {told['num_rounds']} rounds at delta {told['delta']}",
        f"banks in a round: {told['banks_per_round']:g}; client actors: at most {told['actors_at_most']}",
        *_of_the_wire(told.get("wire", {})),
        *_of_the_check(told.get("cross_check", {})),
        *(f"a customer of {', '.join(c['banks'])}: epsilon {human_epsilon(c['epsilon'])}" for c in told["customers"]),
        *told["promise"],
        "not protected:",
        *(f"  {line}" for line in told["not_protected"]),
    )
    header = ("bank", "train", "rate", "noise", "epsilon", "tight", "budget")
    text = Table(header, (tuple(rows),), notes).text()
    if "measured" not in told:
        return text
    from fedsim.build.measure_rows import as_text as text_of

    return f"{text}\n\n{text_of(told['measured'])}"
