"""What banks keep fits the run that kept it, for every method and with residuals; anything else is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from fedsim.codecs import pipeline
from fedsim.core.adapter import Tensors
from fedsim.core.errors import CheckpointError
from fedsim.core.messages import ServerState
from fedsim.engine.checkpoint import pack_tensors
from fedsim.engine.driver import Driver
from fedsim.engine.keeping import require_kept_fits
from fedsim.engine.plan import Plan
from fedsim.engine.pool import InlinePool
from fedsim.engine.resources import Actors
from fedsim.strategies import STRATEGIES
from tests.engine import fakes

FED_BACK = {"density": 0.5, "error_feedback": True}
CHAINS = {
    "none": [],
    "topk": [("topk", FED_BACK)],
    "randk and int8": [("randk", FED_BACK), ("affine", {"bits": 8})],
}
CASES = [
    (kind, chain) for kind in STRATEGIES for chain in CHAINS if STRATEGIES[kind].sheet.keeps_basis or chain == "none"
]
Kept = dict[str, dict[str, torch.Tensor]]  # by bank


def played(kind: str, chain: str) -> tuple[Plan, ServerState, Kept]:
    """(the plan, its first state, what banks keep) after three rounds; of unequal ranks where the method has them."""
    strategy, codec = STRATEGIES.create(kind, {}), pipeline(CHAINS[chain])
    plan = replace(fakes.plan(strategy.rule(), upload=codec), strategy=strategy)
    if strategy.sheet.mixed_ranks:
        plan = replace(plan, infos=tuple(replace(info, rank=1 + k % 2) for k, info in enumerate(plan.infos)))
    driver = Driver(plan, InlinePool(fakes.make_client(plan)(), Actors()))
    for _ in driver.run():
        pass
    kept = {bank: own for bank, own in driver.kept.items() if isinstance(own, dict) and own}
    return plan, strategy.init(fakes.ToyTrainer(plan.rule, None, False).new_adapter(plan.seed), plan.infos, 7), kept


def packed(kept: Kept) -> dict[str, bytes]:
    return {bank: pack_tensors(own) for bank, own in kept.items()}


def spoilt(own: Tensors, name: str) -> Iterator[Tensors]:
    """One tensor has another type, shape or name, or is not finite."""
    tensor, rest = own[name], {other: value for other, value in own.items() if other != name}
    for kind in (torch.float64, torch.float16, torch.int64):
        yield {**rest, name: tensor.to(kind)}
    for other in (tensor[:1], tensor[None], tensor.reshape(-1, 1), torch.cat([tensor, tensor]), tensor.new_zeros(())):
        if other.shape != tensor.shape:
            yield {**rest, name: other}
    yield {**rest, name: tensor * float("nan")}
    yield {**rest, f"{name}x": tensor}
    yield {**own, f"{name}x": tensor}


@pytest.mark.parametrize(("kind", "chain"), CASES)
def test_what_banks_keep_fits_and_nothing_else_does(kind: str, chain: str) -> None:
    plan, first, kept = played(kind, chain)
    require_kept_fits(packed(kept), plan, first)
    sends = kind not in ("local", "zero_shot")
    assert bool(kept) == ("bank:" in plan.strategy.sheet.state or (chain != "none" and sends))
    bank = min(kept, default="")
    for name in kept.get(bank, ()):
        for other in spoilt(kept[bank], name):
            with pytest.raises(CheckpointError, match=rf"^what bank '{bank}' keeps.* '?{name}"):
                require_kept_fits(packed({bank: dict(other)}), plan, first)


@pytest.mark.parametrize("kind", [kind for kind in STRATEGIES if "bank:" in STRATEGIES[kind].sheet.state])
def test_what_a_method_keeps_is_missed(kind: str) -> None:
    plan, first, kept = played(kind, "none")
    for name in kept["east"]:
        own = {other: value for other, value in kept["east"].items() if other != name}
        with pytest.raises(CheckpointError, match=rf"^what bank 'east' keeps lacks {name} of shape \("):
            require_kept_fits(packed({**kept, "east": own}), plan, first)


def test_a_bank_that_keeps_nothing_has_no_tensor() -> None:
    plan, first, _ = played("fedavg", "none")
    with pytest.raises(
        CheckpointError, match=r"'west' keeps has a tensor 'codec/q\.A' of shape \(2, 3\), expected none"
    ):
        require_kept_fits({"west": pack_tensors({"codec/q.A": torch.zeros(2, 3)})}, plan, first)
