"""No training, a baseline: what the base model does with its adapter at initial values (B = 0).

Laws: nothing is trained, nothing is sent up, and the state never changes but for the round.

Deviations: none.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedsim.core.messages import Exchange, ServerState
from fedsim.strategies.base import LocalRule, Sheet, Strategy, TrainOnly, advance


class ZeroShot(Strategy):
    sheet = Sheet(
        title="Base model, untrained",
        source="baseline",
        trains="nothing",
        up="nothing",
        down="nothing",
        exact="n/a",
        state="none",
        mixed_ranks=True,
    )

    def rule(self) -> LocalRule:
        return TrainOnly()

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        return advance(state, state.adapter)
