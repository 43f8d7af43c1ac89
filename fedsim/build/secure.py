"""From a scenario's ``secure_aggregation`` to what both sides of the wire need."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fedsim.codecs import CODECS, Sparsifier
from fedsim.core.errors import Problem, ScenarioError
from fedsim.core.scenario import Scenario
from fedsim.engine.resources import in_a_round
from fedsim.engine.secure import BankSide, Terms
from fedsim.privacy import Mechanism
from fedsim.secagg import PROTOCOLS, Grid
from fedsim.secagg.base import LEAST_BANKS
from fedsim.secagg.primitives import KEY_BYTES
from fedsim.strategies import Strategy


def num_summed(scenario: Scenario, num_banks: int) -> int:
    """Banks of which the server sees the sum at the least."""
    kind, knobs = scenario.secure_aggregation.kind, scenario.secure_aggregation.knobs
    if not PROTOCOLS[kind].active:
        return 1
    return PROTOCOLS.create(kind, knobs).least(in_a_round(scenario.client_fraction, num_banks))


def secure_sum(scenario: Scenario, strategy: Strategy, mechanisms: Sequence[Mechanism]) -> Terms | None:
    """How updates are summed; None where the server sees them. ScenarioError when a round has too few banks."""
    kind = scenario.secure_aggregation.kind
    if not PROTOCOLS[kind].active:
        return None
    protocol = PROTOCOLS.create(kind, scenario.secure_aggregation.knobs)
    num_banks = in_a_round(scenario.client_fraction, len(mechanisms))
    if num_banks < LEAST_BANKS:
        remedy = f"have at least {LEAST_BANKS} in a round"
        message = f"in a sum of {num_banks} banks each can tell the others' part; {remedy}"
        raise ScenarioError([Problem("", "secure_aggregation", message)])
    given = mechanisms[0].grid
    grid = Grid(*given, exact=True) if given else protocol.grid
    try:
        grid.ring_bits(num_banks)
    except OverflowError as error:
        raise ScenarioError([Problem("", "secure_aggregation.bits", str(error))]) from error
    sparsifiers = tuple(CODECS.create(stage.kind, stage.knobs) for stage in scenario.upload)
    return Terms(
        protocol=protocol,
        grid=grid,
        sparsifiers=tuple(stage for stage in sparsifiers if isinstance(stage, Sparsifier)),
        equal_weights=strategy.sheet.equal_weights or grid.exact,
    )


def bank_side(terms: Terms | None) -> BankSide | None:
    """The banks' half with a new secret. No result depends on it: masks cancel exactly."""
    return BankSide(terms, os.urandom(KEY_BYTES)) if terms else None
