"""From a scenario's ``secure_aggregation`` to what both sides of the wire need."""

from __future__ import annotations

import os

from fedsim.codecs import CODECS, Sparsifier
from fedsim.core.errors import Problem, ScenarioError
from fedsim.core.scenario import Scenario
from fedsim.engine.secure import BankSide, Terms
from fedsim.secagg import PROTOCOLS
from fedsim.secagg.base import LEAST_BANKS
from fedsim.secagg.primitives import KEY_BYTES
from fedsim.strategies import Strategy


def secure_sum(scenario: Scenario, strategy: Strategy, num_banks: int) -> Terms | None:
    """How updates are summed; None where the server sees them. ScenarioError when a round has too few banks."""
    kind = scenario.secure_aggregation.kind
    if not PROTOCOLS[kind].active:
        return None
    protocol = PROTOCOLS.create(kind, scenario.secure_aggregation.knobs)
    num_banks = max(1, round(scenario.client_fraction * num_banks))
    if num_banks < LEAST_BANKS:
        message = (
            f"in a sum of {num_banks} banks each can tell the others' part; have at least {LEAST_BANKS} in a round"
        )
        raise ScenarioError([Problem("", "secure_aggregation", message)])
    try:
        protocol.grid.ring_bits(num_banks)
    except OverflowError as error:
        raise ScenarioError([Problem("", "secure_aggregation.bits", str(error))]) from error
    sparsifiers = tuple(CODECS.create(stage.kind, stage.knobs) for stage in scenario.upload)
    return Terms(
        protocol=protocol,
        grid=protocol.grid,
        sparsifiers=tuple(stage for stage in sparsifiers if isinstance(stage, Sparsifier)),
        equal_weights=strategy.sheet.equal_weights,
    )


def bank_side(terms: Terms | None) -> BankSide | None:
    """The banks' half with a new secret. No result depends on it: masks cancel exactly."""
    return BankSide(terms, os.urandom(KEY_BYTES)) if terms else None
