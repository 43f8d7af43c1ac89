"""What every registered privacy mechanism must do."""

import math
import pickle

import pytest
import torch
from pydantic import ValidationError

from fedsim.core import seeds
from fedsim.privacy import MECHANISMS, describe, mechanism_for
from fedsim.privacy.accounting import merged
from fedsim.privacy.base import BankPlan, Mechanism
from fedsim.privacy.sources import Seeded

PLAN = BankPlan("bank-01", num_examples=2000, batch_size=32, steps_per_round=5, num_rounds=4, num_units=1500)
VALUES = {  # each kind takes those that it knows
    "noise_multiplier": 1.3,
    "max_grad_norm": 0.7,
    "max_update_norm": 0.7,
    "count_noise": 5.0,
    "dp_delta": 1e-5,
}


def make(kind: str) -> Mechanism:
    known = MECHANISMS.config(kind).model_fields
    return mechanism_for(kind, {name: value for name, value in VALUES.items() if name in known}, PLAN)


@pytest.fixture(params=list(MECHANISMS))
def mechanism(request) -> Mechanism:
    return make(request.param)


def test_weights_are_factors_and_reject_what_is_not_finite(mechanism) -> None:
    norms = torch.tensor([0.0, 1e-30, 0.7, 3.0, 1e30, math.inf, math.nan])
    before = norms.clone()
    weights = mechanism.weights(norms)
    assert weights.shape == norms.shape
    assert weights.dtype == norms.dtype
    assert weights[:3].tolist() == [1, 1, 1]
    assert bool(((weights >= 0) & (weights <= 1)).all())
    assert weights[5:].tolist() == [0, 0]
    assert torch.equal(norms, before) or bool(norms[-1].isnan() and torch.equal(norms[:-1], before[:-1]))
    assert mechanism.weights(torch.zeros(0)).shape == (0,)


def test_noise_depends_on_the_given_generator_alone(mechanism) -> None:
    state = torch.get_rng_state()
    one = mechanism.noise(101, Seeded(5, "noise"))
    assert one.shape == (101,)
    assert one.dtype == torch.float32
    mechanism.weights(torch.ones(3))
    mechanism.spend(7)
    assert torch.equal(one, mechanism.noise(101, Seeded(5, "noise")))
    assert torch.equal(state, torch.get_rng_state())


def test_release_keeps_names_and_shapes_and_its_input(mechanism) -> None:
    delta = {"m.A": torch.randn(2, 5, generator=seeds.generator(5, "A")), "m.B": torch.ones(7, 2)}
    before = {name: tensor.clone() for name, tensor in delta.items()}
    released = mechanism.release(delta, Seeded(5, "release"))
    assert {name: tensor.shape for name, tensor in released.items()} == {"m.A": (2, 5), "m.B": (7, 2)}
    assert all(torch.equal(delta[name], before[name]) for name in before)


def test_a_charge_comes_with_terms(mechanism) -> None:
    spend = mechanism.spend(5)
    assert (spend is None) == (mechanism.terms is None)
    if spend and mechanism.per_update:  # one release, however many steps led to it
        assert spend == mechanism.spend(2)
        assert spend.num_steps == 1
    elif spend:
        assert merged([mechanism.spend(2), mechanism.spend(3)]) == (spend,)
    if spend:
        assert merged([mechanism.spend(0)]) == ()


def test_a_mechanism_travels_to_an_actor(mechanism) -> None:
    again = pickle.loads(pickle.dumps(mechanism))
    assert again.plan == mechanism.plan
    assert again.config == mechanism.config
    assert again.spend(5) == mechanism.spend(5)
    assert torch.equal(again.noise(9, Seeded(1, "n")), mechanism.noise(9, Seeded(1, "n")))


def test_plans_are_checked_and_described(mechanism) -> None:
    assert mechanism.problems(mechanism.config, [PLAN]) == []
    assert all(sentence for sentence in describe([mechanism]))


@pytest.mark.parametrize("kind", MECHANISMS)
def test_unknown_knobs_are_refused(kind) -> None:
    with pytest.raises(ValidationError, match="noise_multiplyer"):
        MECHANISMS.config(kind).model_validate({"noise_multiplyer": 1.0})
