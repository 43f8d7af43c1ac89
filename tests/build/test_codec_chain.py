"""What travels when a method sends zeros and a scenario asks for a codec."""

from __future__ import annotations

import pytest

from fedsim.build.prepare import codec
from fedsim.core.scenario import Plugin
from fedsim.strategies import STRATEGIES


@pytest.mark.parametrize(
    ("strategy", "given", "chain"),
    [
        ("fedavg", [], ["Float32"]),
        ("fedavg", ["affine"], ["Affine"]),
        ("flasc", [], ["Sparse", "Float32"]),
        ("flasc", ["affine"], ["Sparse", "Affine"]),
        ("flasc", ["sparse", "affine"], ["Sparse", "Affine"]),
        ("flasc", ["topk", "affine"], ["TopK", "Affine"]),
        ("lora_a2", ["bfloat16"], ["Sparse", "BFloat16"]),
    ],
)
def test_zeros_that_a_method_sends_never_meet_a_quantiser(strategy: str, given: list[str], chain: list[str]) -> None:
    stages = tuple(Plugin(kind=kind, **({"density": 0.5} if kind == "topk" else {})) for kind in given)
    found = codec(STRATEGIES.create(strategy, {}), stages)
    assert [type(stage).__name__ for stage in (*found.sparsifiers, found.values)] == chain
