import pickle

import pytest
import torch
from pydantic import ValidationError

from fedsim.codecs import pipeline
from fedsim.core import seeds
from fedsim.core.adapter import norm

EF = {"density": 0.25, "error_feedback": True}
FED_BACK = [
    [("topk", EF)],
    [("topk", EF), ("affine", {"bits": 2})],
    [("topk", EF), ("qsgd", {"levels": 1})],
    [("randk", EF), ("bfloat16", {})],
    [("sparse", {}), ("topk", EF), ("affine", {"bits": 4})],
]


def draw(part: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = seeds.generator(7, "given", part)
    shapes = {"l.A": (4, 15), "l.B": (9, 4), "head.bias": (3,), "s": ()}
    return {n: scale * torch.randn(shape, generator=generator, dtype=torch.float64) for n, shape in shapes.items()}


@pytest.mark.parametrize("chain", FED_BACK, ids=str)
def test_ef_conservation(chain):
    """sum(sent) + residual = sum(given), with the values that the receiver reads."""
    codec, kept = pipeline(chain), {}
    sent, given = {n: torch.zeros_like(t) for n, t in draw(0).items()}, {n: 0 * t for n, t in draw(0).items()}
    for step in range(25):
        delta = draw(step)
        payload, kept = codec.compress(delta, kept, seeds.generator(8, "c", step))
        decoded = codec.decompress(payload, delta)
        for name in delta:
            sent[name] += decoded[name]
            given[name] += delta[name]
    for name in sent:
        assert torch.allclose(sent[name] + kept[name], given[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("chain", FED_BACK, ids=str)
def test_the_residual_stays_bounded(chain):
    """A chain that feeds its error back is a contraction: a constant update is delivered on average."""
    codec, kept, delta = pipeline(chain), {}, {n: t.float() for n, t in draw(0).items()}
    early = late = 0.0
    for step in range(300):
        _, kept = codec.compress(delta, kept, seeds.generator(9, "c", step))
        early, late = (max(early, norm(kept)), late) if step < 150 else (early, max(late, norm(kept)))
    assert late < 1.3 * early


def test_residuals_of_absent_tensors_wait():
    codec = pipeline([("topk", {"density": 0.5, "error_feedback": True})])
    _, kept = codec.compress({"a": torch.tensor([3.0, 1.0])}, {}, seeds.generator(0, "c"))
    _, kept = codec.compress({"b": torch.tensor([1.0, 5.0])}, kept, seeds.generator(0, "c"))
    assert {name: value.tolist() for name, value in kept.items()} == {"a": [0, 1], "b": [1, 0]}
    payload, kept = codec.compress({"a": torch.tensor([0.0, 0.5])}, kept, seeds.generator(0, "c"))
    assert codec.decompress(payload, {"a": torch.zeros(2)})["a"].tolist() == [0, 1.5]


def test_a_residual_of_another_shape_is_refused():
    codec = pipeline([("topk", EF)])
    with pytest.raises(ValueError, match=r"residual of 'a' has shape \(3,\), the tensor \(2, 3\)"):
        codec.compress({"a": torch.ones(2, 3)}, {"a": torch.ones(3)}, seeds.generator(0, "c"))


def test_without_feedback_kept_passes_through():
    kept = {"other": torch.ones(1)}
    assert pipeline([("topk", {})]).compress({"a": torch.ones(4)}, kept, seeds.generator(0, "c"))[1] is kept


def test_what_a_chain_declares():
    assert pipeline([]).lossless
    assert pipeline([("sparse", {})]).lossless
    assert not pipeline([("sparse", {}), ("bfloat16", {})]).lossless
    assert not pipeline([("topk", {}), ("affine", {})]).needs_basis
    assert pipeline([("randk", EF)]).needs_basis


def test_stages_add_up():
    """[topk, affine]: one flag and a bitmap, then 8 bytes per row of 512 and a nibble per value."""
    tensors = {"a": torch.randn(40, 100, generator=seeds.generator(1, "x"))}
    payload, _ = pipeline([("topk", {"density": 0.25}), ("affine", {"bits": 4})]).compress(
        tensors, {}, seeds.generator(0, "c")
    )
    assert (payload.num_bytes, payload.value_bytes) == (1 + 500 + 2 * 8 + 500, 500)


def test_the_order_of_names_in_a_mapping_does_not_matter():
    codec = pipeline([("topk", {"density": 0.5}), ("qsgd", {})])
    tensors = draw(0)
    turned = dict(reversed(tensors.items()))
    first, second = (codec.compress(t, {}, seeds.generator(0, "c"))[0] for t in (tensors, turned))
    assert first == second


def test_a_codec_survives_pickle():
    codec = pickle.loads(pickle.dumps(pipeline([("topk", EF), ("affine", {"bits": 2})])))
    assert codec.needs_basis


@pytest.mark.parametrize("chain", [["affine", "topk"], ["float32", "affine"], ["topk", "affine", "sparse"]])
def test_a_value_codec_comes_last(chain):
    with pytest.raises(ValueError, match=r"only the last may be a value codec \(affine, bfloat16, float32, qsgd\)"):
        pipeline([(kind, {}) for kind in chain])


def test_unknown_kinds_and_knobs_are_refused():
    with pytest.raises(KeyError, match="Did you mean 'affine'"):
        pipeline([("afine", {})])
    with pytest.raises(ValidationError, match="bits"):
        pipeline([("affine", {"bits": 3})])
    with pytest.raises(ValidationError, match="density"):
        pipeline([("topk", {"density": 1.5})])
