"""The audit of whole runs: without privacy it must find what leaks, with it the bound stays below the accountant's."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from fedsim.attacks.gradients import Listener, pull, row_gradients
from fedsim.attacks.membership import auc, auc_se
from fedsim.attacks.planting import plant, tossed, training, with_canaries
from fedsim.build.audit import Auditor, shadow_jobs
from fedsim.build.prepare import Material, make_job
from fedsim.build.run import Inline
from fedsim.core.adapter import flatten
from fedsim.core.events import Finished, Seen, Served, ShadowDone
from fedsim.core.rows import BankRows
from fedsim.core.scenario import Scenario
from tests import smoke, tiny

AUDIT = {"canaries": 20, "members": 8, "shadow_runs": 1}
BASE: dict[str, Any] = {
    "num_rounds": 3,
    "seed": 5,
    "data": {"kind": "loan_book"},
    "model": {"kind": "embedded"},
    "lora": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    "train": {"local_steps": 4, "sample_rate": 0.5, "optimizer": "sgd", "lr": 1.0},
    "audit": AUDIT,
}


@cache
def banks() -> tuple[BankRows, ...]:
    test = np.arange(120, 130)
    return (BankRows("a", np.arange(60), test), BankRows("b", np.arange(60, 120), test))


def material(scenario: Scenario) -> Material:
    """What ``share_out`` makes, with a small random model."""
    assert scenario.audit is not None
    planted = plant(banks(), scenario.audit.canaries, scenario.audit.members, scenario.seed)
    corpus = with_canaries(tiny.corpus(130), planted, scenario.seed)
    model = smoke.LoadedOnce(smoke.config("causal_lm"))
    return Material(corpus, training(banks(), planted), model, model.encode(corpus), None, planted, banks())


def audited(**changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the audit, the summary) of one run."""
    scenario = Scenario.model_validate({**BASE, **changes})
    rows = material(scenario)
    job = make_job(scenario, rows, "nowhere")
    auditor = Auditor.of(scenario, rows, job)
    assert auditor is not None
    summary: dict[str, Any] = {}
    for event in Inline().events(job):
        auditor.take(event)
        if isinstance(event, Finished):
            summary = dict(event.summary)
    for number, shadow in enumerate(shadow_jobs(scenario, rows, "nowhere"), start=1):
        for event in Inline().events(shadow):
            assert not isinstance(event, Seen)
            if isinstance(event, Served):
                auditor.take(ShadowDone(number, event))
    return auditor.result(), summary


@cache
def over_trained() -> dict[str, Any]:
    return audited(train={"local_steps": 8, "sample_rate": 1.0, "optimizer": "adamw", "lr": 1e-2})[0]


def test_without_privacy_an_over_trained_model_is_caught() -> None:
    """The positive control of the bound."""
    told = over_trained()
    assert told["canaries"] == 40
    assert told["auc"] > 0.9
    assert told["epsilon_lower"] > 1


def test_membership_attacks_find_members_of_an_over_trained_model() -> None:
    told = over_trained()["membership"]
    assert set(told) == {"all banks", "a", "b"}
    assert told["all banks"]["loss_auc"] > 0.6
    assert {"loss_auc", "loss_tpr_at_1pct_fpr", "lira_auc", "lira_tpr_at_1pct_fpr"} == set(told["a"])


@pytest.mark.parametrize("epsilon", [2.0])
def test_with_privacy_the_bound_stays_below_the_accountants(epsilon: float) -> None:
    privacy = {"kind": "dp_sgd", "dp_epsilon": epsilon, "dp_delta": 1e-3, "max_grad_norm": 1.0}
    told, summary = audited(privacy=privacy, audit={**AUDIT, "shadow_runs": 0})
    assert 1.9 < summary["epsilon"] <= epsilon
    assert told["epsilon_lower"] <= summary["epsilon_pld"]
    assert told["auc"] < over_trained()["auc"]
    assert math.isfinite(told["membership"]["all banks"]["loss_auc"])


# ------------------------------------------------------------------------------------------------------------ the parts


def listened() -> tuple[Listener, Any, torch.Tensor]:
    """A listener on eight rows, an exchange of theirs, and their gradients at the received adapter."""
    scenario = Scenario.model_validate({**BASE, "num_rounds": 1})
    rows = material(scenario)
    job = make_job(scenario, rows, "nowhere")
    trainer = job.make_client.make_trainer()
    (exchange, *_) = next(event for event in Inline().events(job) if isinstance(event, Seen)).exchanges
    indices = np.arange(8)
    grads = row_gradients(trainer.model, trainer.rows, exchange.job.adapter, list(exchange.update.delta), indices)
    known = {"a": np.arange(20, 30), "b": np.arange(80, 90)}
    return Listener(trainer.model, trainer.rows, indices, np.array(["a"] * 8), known), exchange, grads


def test_gradients_are_those_of_one_row_at_a_time_and_pull_finds_who_moved() -> None:
    listener, exchange, grads = listened()
    names = sorted(exchange.update.delta)
    for row in (0, 5):
        alone = row_gradients(listener.model, listener.rows, exchange.job.adapter, names, np.array([row]))
        assert torch.allclose(alone[0], grads[row], atol=1e-5)
    sent = -(grads[2] + grads[6])
    assert set(np.argsort(-pull(grads, sent))[:2]) == {2, 6}
    assert np.allclose(pull(grads, 0 * sent), 0)


def test_a_listener_adds_up_rounds_in_deviations_over_a_banks_rows() -> None:
    listener, exchange, grads = listened()
    listener.hear([exchange])
    once = listener.scores.copy()
    names = sorted(exchange.update.delta)
    known = row_gradients(listener.model, listener.rows, exchange.job.adapter, names, listener.ordinary["a"])
    shares = pull(grads, flatten(exchange.update.delta), known)
    assert np.allclose(once, (shares - shares.mean()) / shares.std(), atol=1e-3)
    listener.hear([exchange])
    assert np.allclose(listener.scores, 2 * once)
    elsewhere = replace(exchange, job=replace(exchange.job, bank="b"))
    listener.hear([elsewhere])
    assert np.allclose(listener.scores, 2 * once)


def test_what_all_rows_share_is_no_evidence_however_the_coins_fell() -> None:
    """No planted row trained, but those whose coin says "in" are more like the rows that did."""
    torch.manual_seed(0)
    included = np.arange(40) < 20
    common = torch.zeros(400)
    common[:8] = 1.0
    likeness = torch.from_numpy(np.where(included, 1.0, -1.0)).float() + 0.3 * torch.randn(40)
    grads = torch.randn(40, 400) + likeness[:, None] * common
    others = torch.randn(16, 400) + 3 * common
    sent = -others.sum(0) + 5 * torch.randn(400)
    assert auc(pull(grads, sent), included) > 0.9  # what looks like a leak
    assert abs(auc(pull(grads, sent, others), included) - 0.5) < 3 * auc_se(included)
    assert auc(pull(grads, sent - grads[included].sum(0), others), included) > 0.9  # and what is one


def test_guesses_know_no_coins_where_noise_drowns_all() -> None:
    """Over the tosses of many coins the AUC is that of guessing: nothing tells a coin but what was trained."""
    privacy = {"kind": "dp_sgd", "noise_multiplier": 1000.0, "dp_delta": 1e-3, "max_grad_norm": 1.0}
    scenario = Scenario.model_validate({**BASE, "num_rounds": 1, "privacy": privacy})
    rows = material(scenario)
    areas = []
    for run in range(16):
        tossed_again = tossed(rows.planted, scenario.seed, run)
        other = replace(rows, planted=tossed_again, banks=training(rows.whole, tossed_again))
        changed = scenario.model_copy(update={"seed": 100 + run})  # of the draws; the rows stay
        job = make_job(changed, other, "nowhere")
        auditor = Auditor.of(changed, other, job)
        for event in Inline().events(job):
            auditor.take(event)
        told = auditor.result()
        areas.append((told["auc"] - 0.5) / told["auc_se"])
    assert abs(np.mean(areas)) < 4 / np.sqrt(len(areas))
    assert 0.4 < np.std(areas) < 1.8  # the standard error that is told is the one that is there
