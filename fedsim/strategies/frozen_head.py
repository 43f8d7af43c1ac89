"""``lora.train_head: false``: any method, but the task head stays as it was drawn, the same at every bank.

The protocol of LoRA-A2 (Koo et al., 2410.22815, section 5): only what passes through the adapters can tell methods and
ranks apart, which a trained head of many labels would hide.

The two halves of a method become instances of a subclass of their own class, so that all else of them is untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fedsim.core.adapter import AdapterState, factor, map_tensors
from fedsim.core.messages import Exchange, ServerState
from fedsim.strategies.base import LocalContext, LocalRule, Outcome, Strategy


def freeze_head(strategy: Strategy) -> Strategy:
    """The same method, whose banks neither train nor send a head."""
    frozen: Strategy = _become(strategy, _NoHeadArrives)
    return frozen


class _NoHeadArrives(Strategy):
    def rule(self) -> LocalRule:
        rule: LocalRule = _become(super().rule(), _NoHeadTrains)
        return rule

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        """To the method, a head that did not change. A mean of equal values may differ from them in its last bit."""
        after = super().aggregate(state, [_with_head(exchange) for exchange in exchanges])  # type: ignore[safe-super]
        return replace(after, adapter=after.adapter.with_tensors(_heads(state.adapter)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _become, (_plain(self), _NoHeadArrives)


class _NoHeadTrains(LocalRule):
    def trains(self, name: str, round_: int) -> bool:
        return factor(name) != "head" and super().trains(name, round_)

    def finish(self, trained: AdapterState, context: LocalContext) -> Outcome:
        """Without the head that some methods send whatever is trained (FLoRA)."""
        outcome = super().finish(trained, context)
        return replace(outcome, delta={n: t for n, t in outcome.delta.items() if factor(n) != "head"})

    def __reduce__(self) -> tuple[Any, ...]:
        return _become, (_plain(self), _NoHeadTrains)


def _with_head(exchange: Exchange) -> Exchange:
    still = map_tensors(torch.zeros_like, _heads(exchange.job.adapter))
    return replace(exchange, update=replace(exchange.update, delta={**exchange.update.delta, **still}))


def _heads(adapter: AdapterState) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in adapter.tensors.items() if factor(name) == "head"}


def _become(plain: Any, mixin: type) -> Any:
    """A copy of a different kind: what the mixin says comes before what the value's class says."""
    cls = type(plain)
    other = copy(plain)
    other.__class__ = type(f"{cls.__name__}WithFrozenHead", (mixin, cls), {})
    return other


def _plain(frozen: Any) -> Any:
    """What ``_become`` made it of."""
    plain: Any = object.__new__(type(frozen).__mro__[2])
    plain.__dict__.update(frozen.__dict__)
    return plain
