"""From a scenario to everything a run needs: rows, banks, tokens, a plan, and a way to make trainers.

All that a user can get wrong in data and model fails here, before Ray starts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fedsim.attacks.planting import Planted, plant, training, with_canaries
from fedsim.build.joins import joins_of, told_of_joins
from fedsim.build.mechanisms import bank_plans, hand_out_key, make_mechanisms, of_customers, together, told_of
from fedsim.build.secure import bank_side, secure_sum
from fedsim.build.split import Division, divide, leaks, needed, test_rows, training_banks, without_rows
from fedsim.codecs import CODECS, Codec, Sparsifier, pipeline
from fedsim.core.errors import Problem, ScenarioError, blaming
from fedsim.core.messages import BankInfo
from fedsim.core.metrics import METRICS, all_metric_names, task_of
from fedsim.core.rows import BankRows, Corpus, Rows
from fedsim.core.scenario import Plugin, Scenario
from fedsim.core.sections import Failures
from fedsim.data import SOURCES, loan_book
from fedsim.engine.actor import ClientActor
from fedsim.engine.plan import Evaluation, Plan
from fedsim.engine.resources import Actors, in_a_round
from fedsim.engine.secure import BankSide
from fedsim.models import MODELS, BaseModel
from fedsim.models.cache import encode
from fedsim.privacy import Ledger, Mechanism, describe
from fedsim.privacy.base import Terms
from fedsim.strategies import STRATEGIES, LocalRule, Strategy
from fedsim.strategies.frozen_head import freeze_head
from fedsim.train.factory import TrainerFactory
from fedsim.train.metrics import metrics
from fedsim.train.reuse import cut_rows, tried_rows
from fedsim.train.trainer import LocalTraining

ROUNDING = 1e-9  # of an epsilon that is summed round by round, relative


@dataclass(frozen=True)
class Material:
    """What a scenario's data and model entries become; the baselines of a run share it."""

    corpus: Corpus
    banks: tuple[BankRows, ...]
    model: BaseModel
    rows: Rows
    embeddings: np.ndarray | None = None  # (n, d) of the prompts, where the split was made by them
    planted: Planted | None = None  # rows that an audit has marked
    whole: tuple[BankRows, ...] = ()  # the banks before the coins of these rows
    left_out: tuple[BankRows, ...] = ()  # those that hold no training row

    @property
    def num_labels(self) -> int:
        return len(self.corpus.label_words)


@dataclass(frozen=True)
class Encoded:
    """What is made of a scenario's ``data``, ``model`` and ``seed`` alone: the part that takes time."""

    corpus: Corpus
    model: BaseModel
    rows: Rows


def prepare(scenario: Scenario) -> Material:
    """Read, tokenise and split. DataError, ModelError and ScenarioError name the key to blame."""
    corpus = load_corpus(scenario)
    division = divide(scenario, corpus, needed(scenario, corpus))
    return share_out(scenario, division, tokenise(scenario, corpus))


def load_corpus(scenario: Scenario) -> Corpus:
    with blaming("data"):
        corpus = SOURCES.create(scenario.data.kind, scenario.data.knobs).load(scenario.seed)
    check_metrics(scenario, corpus)
    return corpus


def tokenise(scenario: Scenario, corpus: Corpus) -> Encoded:
    model = MODELS.create(scenario.model.kind, scenario.model.knobs)
    with blaming("model"):
        return Encoded(corpus, model, encode(model, corpus))


def check_metrics(scenario: Scenario, corpus: Corpus) -> None:
    """ScenarioError for metrics that the task of these rows does not define."""
    num_labels = len(corpus.label_words)
    task = f"{num_labels} label words" if num_labels else "free text"
    allowed = ", ".join(all_metric_names(num_labels))
    wrong = [
        Problem("", f"evaluate.metrics[{number}]", f"{name!r} is not defined for {task}; use some of {allowed}")
        for number, name in enumerate(scenario.evaluate.metrics or ())
        if task_of(num_labels) not in METRICS[name].tasks
    ]
    if wrong:
        raise ScenarioError(wrong)


def share_out(scenario: Scenario, division: Division, encoded: Encoded) -> Material:
    """Give the rows to banks; mark some of them where the run is audited."""
    banks, left_out, seen, audit = division.banks, division.left_out, division.embeddings, scenario.audit
    if audit is None:
        return Material(encoded.corpus, banks, encoded.model, encoded.rows, seen, left_out=left_out)
    planted = plant(banks, audit.canaries, audit.members, scenario.seed)
    corpus = with_canaries(encoded.corpus, planted, scenario.seed)
    with blaming("model"):
        rows = encode(encoded.model, corpus)
    return Material(corpus, training(banks, planted), encoded.model, rows, seen, planted, banks, left_out)


def fingerprint(material: Material) -> str:
    """SHA-256 of every row and of which bank holds it: what a resumed run must find again."""
    corpus, digest = material.corpus, hashlib.sha256()
    for texts in (corpus.prompts, corpus.answers, corpus.label_words):
        digest.update("\x1e".join(texts).encode() + b"\x1d")
    for array in (corpus.labels, corpus.test, corpus.images, corpus.units):
        digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    for bank in material.banks:
        digest.update(f"{bank.name} {len(bank.train)} ".encode() + bank.train.tobytes() + bank.test.tobytes())
    return digest.hexdigest()


def check_model(scenario: Scenario, material: Material) -> None:
    """ModelError for whatever an actor would find wrong with the model, as far as no weights are needed."""
    with blaming("model"):
        material.model.check(scenario.lora, material.num_labels)


def best_auc(scenario: Scenario, material: Material, banks: tuple[BankRows, ...]) -> float | None:
    """What no model can beat on these banks' test rows, where the data are made so that it is known."""
    if scenario.data.kind != "loan_book":
        return None
    return loan_book.best_auc(material.corpus, np.unique(np.concatenate([bank.test for bank in banks])))


@dataclass(frozen=True)
class Job:
    """One run, ready to start: the driver's plan, and what makes a client actor."""

    plan: Plan
    make_client: ClientFactory
    actors: Actors
    bank_gauges: bool = False

    @property
    def cohort(self) -> int:
        """Banks in one round."""
        return in_a_round(self.plan.client_fraction, len(self.plan.infos))


@dataclass(frozen=True)
class ClientFactory:
    """Makes the actor where it is called: the base model is loaded there."""

    make_trainer: TrainerFactory
    rule: LocalRule
    upload: Codec
    secure: BankSide | None
    failures: Failures

    def __call__(self) -> ClientActor:
        return ClientActor(self.make_trainer, self.rule, self.upload, self.secure, self.failures)


def make_job(scenario: Scenario, material: Material, run_dir: str, exports: bool = True) -> Job:
    """The plan of a scenario, or of one of its baselines, which export nothing."""
    banks = training_banks(scenario, material.banks)
    joins = joins_of(scenario, material.corpus, banks)
    plans = bank_plans(scenario, banks, len(material.banks), material.corpus.units, joins)
    mechanisms = make_mechanisms(scenario.privacy, plans)
    hand_out_key(scenario, material.corpus, Path(run_dir), mechanisms)
    plan = _plan(scenario, material, banks, mechanisms, joins, run_dir, exports)
    actors = actors_of(scenario)
    trainer = TrainerFactory(
        model=material.model,
        lora=scenario.lora,
        rows=material.rows,
        num_labels=material.num_labels,
        local=_local(scenario, material, banks, plan),
        threads=actors.threads,
    )
    client = ClientFactory(trainer, plan.rule, plan.upload, bank_side(plan.secure_sum), plan.failures)
    return Job(plan, client, actors, scenario.resources.bank_gauges)


def actors_of(scenario: Scenario) -> Actors:
    resources = scenario.resources
    return Actors(
        num_actors=resources.num_actors,
        cpus=resources.cpus_per_client,
        gpus=resources.gpus_per_client,
        banks_per_actor=resources.banks_per_actor,
    )


def _plan(
    scenario: Scenario,
    material: Material,
    banks: tuple[BankRows, ...],
    mechanisms: dict[str, Mechanism],
    joins: Mapping[str, int],
    run_dir: str,
    exports: bool,
) -> Plan:
    """What the driver runs."""
    strategy: Strategy = STRATEGIES.create(scenario.strategy.kind, scenario.strategy.knobs)
    if not scenario.lora.train_head:
        strategy = freeze_head(strategy)
    num_rounds = 0 if scenario.strategy.kind == "zero_shot" else scenario.num_rounds
    terms = next(iter(mechanisms.values())).terms
    shared = together(scenario, banks, material.corpus.units)
    customers = of_customers(mechanisms, shared)  # refuses what cannot be afforded
    told = (*notes(scenario, material, [*mechanisms.values()]), *told_of(customers), *told_of_joins(joins))
    return Plan(
        name=scenario.name,
        run_dir=run_dir,
        seed=scenario.seed,
        num_rounds=num_rounds,
        client_fraction=scenario.client_fraction,
        strategy=strategy,
        rule=strategy.rule(),
        download=codec(strategy, scenario.download),
        upload=codec(strategy, scenario.upload),
        banks=test_rows(scenario, material.banks),
        infos=tuple(bank_info(scenario, number, bank) for number, bank in enumerate(banks)),
        joins=joins,
        mechanisms=mechanisms,
        ledger=partial(Ledger, terms.dp_delta, terms.accountant, together=shared) if terms else partial(Ledger, 0.0),
        dp_cap=_cap(scenario, terms),
        evaluation=Evaluation(
            every=scenario.evaluate.every,
            metrics=partial(metrics, num_labels=material.num_labels, names=scenario.evaluate.metrics),
            per_bank=scenario.evaluate.per_bank,
            cut_on=cut_rows(banks, scenario.seed) if needs_cut(scenario, material) else None,
        ),
        curator=type(next(iter(mechanisms.values()))).curator(mechanisms),
        notes=told if num_rounds and exports else (),
        failures=scenario.failures,
        secure_sum=secure_sum(scenario, strategy, list(mechanisms.values())),
        audited=scenario.audit is not None and exports,
        exports=exports,
    )


def _cap(scenario: Scenario, terms: Terms | None) -> float | None:
    """What no bank's epsilon may exceed. Calibrated noise just reaches it: only rounds charged twice go beyond."""
    if terms is None or terms.dp_epsilon is None or scenario.privacy.knobs.get("noise_multiplier") is not None:
        return terms.dp_epsilon if terms else None
    return terms.dp_epsilon * (1 + ROUNDING)


def _local(scenario: Scenario, material: Material, banks: tuple[BankRows, ...], plan: Plan) -> LocalTraining:
    """What every bank's training and evaluation shares."""
    return LocalTraining(
        rule=plan.rule,
        train=scenario.train,
        num_rounds=plan.num_rounds,
        banks={bank.name: bank for bank in banks},
        mechanisms=plan.mechanisms,
        units=material.corpus.units,
        scored=plan.scored(),
        tried={bank.name: tried_rows(bank, scenario.seed) for bank in banks} if plan.rule.personal else {},
        answer_tokens=scenario.evaluate.answer_tokens,
        cuts=plan.evaluation.cut_on is not None,
    )


def needs_cut(scenario: Scenario, material: Material) -> bool:
    """Whether a metric asks from which score on the answer is yes."""
    return task_of(material.num_labels) == "binary" and "f1" in (scenario.evaluate.metrics or METRICS)


def notes(scenario: Scenario, material: Material, mechanisms: list[Mechanism]) -> tuple[str, ...]:
    """Sentences for the user that a run begins with."""
    return (
        *without_rows(material.left_out),
        *leaks(scenario, material.corpus),
        *material.model.notes(),
        *describe(mechanisms),
    )


def bank_info(scenario: Scenario, number: int, bank: BankRows) -> BankInfo:
    rank = scenario.lora.rank_of(number)
    return BankInfo(bank.name, bank.num_examples, rank, scenario.lora.scaling(rank))


def codec(strategy: Strategy, chain: tuple[Plugin, ...]) -> Codec:
    """The scenario's chain, or the method's own.

    Where the method's own cuts zeros out, it stays before a scenario's value codec: a quantised zero may be none.
    """
    own = [(kind, dict[str, object]()) for kind in strategy.codecs]
    given = [(stage.kind, stage.knobs) for stage in chain]
    cuts = all(issubclass(CODECS[kind], Sparsifier) for kind in strategy.codecs)
    values_only = not any(issubclass(CODECS[kind], Sparsifier) for kind, _ in given)
    return pipeline([*own, *given] if cuts and values_only else given or own)
