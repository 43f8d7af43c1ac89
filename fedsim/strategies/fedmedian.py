"""Coordinate-wise median of the banks' updates (Yin et al., 1803.01498, Definition 1).

Every coordinate moves by the median of what the banks would move it, with an even number of banks by the mean of the
middle two; all banks weigh the same, as the number of rows is a bank's own word. While less than half of the banks are
hostile, every coordinate stays within what honest banks sent.
Laws: identical banks give their update; one bank gives the identity map, two their mean; the order of the banks does
not matter; scaling a coordinate scales its median. Not exact for the products: factors that banks have turned against
each other have no median that means anything, so it suits methods' adapters only as far as banks start alike.

Deviations: none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedsim.core.adapter import add
from fedsim.core.messages import Exchange, ServerState
from fedsim.strategies.base import Sheet, Strategy, advance


class FedMedian(Strategy):
    sheet = Sheet(
        title="Median of every coordinate",
        source="1803.01498, Definition 1",
        trains="A, B, head",
        up="A, B, head",
        down="A, B, head",
        exact="no (median of factors)",
        state="none",
    )

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        deltas = [exchange.update.delta for exchange in exchanges]
        step = {}
        for name, tensor in deltas[0].items():
            ordered = torch.stack([delta[name].double() for delta in deltas]).sort(0).values
            low, high = ordered[(len(deltas) - 1) // 2], ordered[len(deltas) // 2]
            step[name] = ((low + high) / 2).to(tensor.dtype)
        return advance(state, state.adapter.with_tensors(add(state.adapter.tensors, step)))
