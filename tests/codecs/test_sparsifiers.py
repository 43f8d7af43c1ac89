import math

import pytest
import torch

from fedsim.codecs import pipeline
from fedsim.core import seeds
from fedsim.core.adapter import flatten, norm, subtract

TENSORS = {"b": torch.tensor([[0.5, -3.0], [0.0, 1.0]]), "a": torch.tensor([2.0, -1.0])}  # as a vector: 2 -1 .5 -3 0 1


def send(chain, tensors=TENSORS, seed=0):
    codec = pipeline(chain)
    payload, _ = codec.compress(tensors, {}, seeds.generator(seed, "sparsifier"))
    return payload, codec.decompress(payload, tensors)


def test_topk_over_the_whole_message():
    payload, decoded = send([("topk", {"density": 0.34})])  # int(6 * 0.34) = 2
    assert flatten(decoded).tolist() == [2, 0, 0, -3, 0, 0]
    assert (payload.num_bytes, payload.value_bytes) == (1 + 1 + 8, 8)


def test_topk_ties_go_to_the_lower_coordinate():
    _, decoded = send([("topk", {"density": 0.5})])
    assert flatten(decoded).tolist() == [2, -1, 0, -3, 0, 0]  # -1 and 1 tie: the first wins
    tied = {"a": torch.ones(7)}
    assert send([("topk", {"density": 0.5})], tied)[1]["a"].tolist() == [1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("density", [0.0, 0.01, 0.1, 1.0])
def test_topk_sends_exactly_k(density):
    vector = {"a": torch.zeros(50)}  # all values tie
    payload, _ = send([("topk", {"density": density})], vector)
    assert payload.value_bytes == 4 * int(50 * density)


@pytest.mark.parametrize("density", [0.0, 0.1, 0.25, 0.9, 1.0])
def test_topk_energy(density):
    tensors = {"a": torch.randn(30, 11, generator=seeds.generator(3, "x")), "b": torch.randn(70)}
    _, decoded = send([("topk", {"density": density})], tensors)
    share = int(400 * density) / 400
    assert norm(decoded) ** 2 >= share * norm(tensors) ** 2 * (1 - 1e-12)
    assert norm(subtract(tensors, decoded)) ** 2 <= (1 - share) * norm(tensors) ** 2 * (1 + 1e-12)


def test_topk_is_lossy_about_infinity_and_says_which_tensor():
    with pytest.raises(ValueError, match=r"tensor 'b' holds 2 values that are not finite"):
        send([("topk", {})], {"a": torch.ones(3), "b": torch.tensor([math.nan, 1.0, -math.inf])})


def test_sparse_is_lossless_and_costs_the_values_and_their_places():
    payload, decoded = send([("sparse", {})])
    assert all(torch.equal(decoded[name], TENSORS[name]) for name in TENSORS)
    assert (payload.num_bytes, payload.value_bytes) == (1 + 1 + 20, 20)
    assert send([("sparse", {})], {"a": torch.zeros(1000)})[0].num_bytes == 2
    assert send([("sparse", {})], {"a": torch.ones(1000)})[0].num_bytes == 4001


def test_randk_sends_a_seed_and_k_values():
    payload, decoded = send([("randk", {"density": 0.5})])
    assert (payload.num_bytes, payload.value_bytes) == (8 + 12, 12)
    vector, found = flatten(TENSORS), flatten(decoded)
    assert all(float(value) in (0.0, 2 * float(given)) for given, value in zip(vector, found, strict=True))
    assert (found != 0).sum() >= 2  # three of six coordinates, one of which may hold the zero


def test_randk_plain_when_the_error_is_fed_back():
    for chain in (
        [("randk", {"density": 0.5, "error_feedback": True})],
        [("topk", {"density": 1.0, "error_feedback": True}), ("randk", {"density": 0.5})],
    ):
        found = flatten(send(chain)[1])
        assert all(float(v) in (0.0, float(g)) for g, v in zip(flatten(TENSORS), found, strict=True))


def test_randk_unbiased():
    tensors, draws = {"a": torch.tensor([3.0, -1.0, 0.5, 0.0, 10.0])}, 4000
    codec, generator = pipeline([("randk", {"density": 0.4})]), seeds.generator(5, "randk")
    found = torch.stack(
        [codec.decompress(codec.compress(tensors, {}, generator)[0], tensors)["a"] for _ in range(draws)]
    )
    spread = tensors["a"].abs() * math.sqrt(5 / 2 - 1)
    assert ((found.mean(0) - tensors["a"]).abs() <= 5 * spread / math.sqrt(draws)).all()
    error = float((found - tensors["a"]).double().square().sum(1).mean())
    assert error == pytest.approx((5 / 2 - 1) * norm(tensors) ** 2, rel=0.1)


def test_randk_with_nothing_to_send():
    payload, decoded = send([("randk", {"density": 0.1})])
    assert payload.num_bytes == 8
    assert norm(decoded) == 0


@pytest.mark.parametrize("inverse", [2, 4, 8, 16, 32, 64, 256])
def test_topk_beats_indices_and_bitmap(inverse):
    """The real body against the two coded forms of algorithms.md 0.3; one byte names the form."""
    numel = 2**15
    tensors = {"a": torch.randn(numel, generator=seeds.generator(6, "x"))}
    payload, _ = send([("topk", {"density": 1 / inverse})], tensors)
    sent = numel // inverse
    assert payload.num_bytes <= 4 * sent + min(4 * sent, numel // 8) + 1
