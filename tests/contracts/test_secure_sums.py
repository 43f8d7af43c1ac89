"""What every registered protocol of secure aggregation must do."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fedsim.secagg import PROTOCOLS
from fedsim.secagg.server import Server
from tests.secagg.parties import Round, codes

ACTIVE = [kind for kind, cls in PROTOCOLS.items() if cls.active]


def server(kind: str, num_banks: int) -> Server:
    protocol = PROTOCOLS.create(kind, {})
    ring_bits = protocol.grid.ring_bits(num_banks)
    return protocol.server(num_banks, ring_bits, np.random.default_rng(1))


@pytest.mark.parametrize("num_banks", [3, 9])
@pytest.mark.parametrize("kind", ACTIVE)
def test_the_sum_is_the_plain_sum_when_one_bank_leaves_at_each_step(kind: str, num_banks: int) -> None:
    values, made = codes(num_banks), server(kind, num_banks)
    everybody = list(range(num_banks))
    gone = max(1, num_banks // 5)
    for shared, arrived, revealing in (
        (everybody, everybody, everybody),
        (everybody, everybody[gone:], everybody[gone:]),
        (everybody[:-gone], everybody[:-gone], everybody[:-gone]),
        (everybody, everybody, everybody[gone:]),
    ):
        total = Round(made, shared).finish(values, arrived, revealing)
        assert torch.equal(total, values[arrived].sum(0))


@pytest.mark.parametrize("kind", ACTIVE)
def test_neighbours_are_mutual_and_thresholds_within_them(kind: str) -> None:
    for num_banks in range(3, 20):
        made = server(kind, num_banks)
        assert 2 * made.least > num_banks
        for bank, around in enumerate(made.graph):
            assert all(bank in made.graph[other] for other in around)
            assert len(around) + 1 >= made.thresholds[bank] > (len(around) + 1) / 2


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_a_protocol_travels_to_the_driver(kind: str) -> None:
    protocol = PROTOCOLS.create(kind, {})
    assert pickle.loads(pickle.dumps(protocol)).config == protocol.config


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_unknown_knobs_are_refused(kind: str) -> None:
    with pytest.raises(ValidationError, match="treshold"):
        PROTOCOLS.create(kind, {"treshold": 0.6})
