import torch

from fedsim.codecs import pipeline
from fedsim.core import seeds

GENERATOR = seeds.generator(0, "unused")


def test_float32_is_four_bytes_per_scalar_in_name_order():
    tensors = {"b": torch.tensor([[2.0]]), "a": torch.tensor(1.0)}
    payload, kept = pipeline([]).compress(tensors, {}, GENERATOR)
    assert payload.body == bytes.fromhex("0000803f") + bytes.fromhex("00000040")
    assert (payload.num_bytes, payload.value_bytes, kept) == (8, 8, {})


def test_float32_carries_every_bit_pattern_that_is_a_number_or_not():
    tensors = {"a": torch.tensor([float("inf"), -0.0, 1e-45, 3.4e38, float("nan")])}
    codec = pipeline([("float32", {})])
    decoded = codec.decompress(codec.compress(tensors, {}, GENERATOR)[0], tensors)
    assert torch.equal(decoded["a"].view(torch.int32), tensors["a"].view(torch.int32))


def test_bfloat16_keeps_eight_bits_and_never_overflows():
    tensors = {"a": torch.tensor([1.0, 1 + 2**-7, 1 + 2**-8, -3.4e38, 1e-45])}
    codec = pipeline([("bfloat16", {})])
    payload, _ = codec.compress(tensors, {}, GENERATOR)
    decoded = codec.decompress(payload, tensors)["a"]
    assert payload.num_bytes == payload.value_bytes == 10
    assert decoded[:3].tolist() == [1.0, 1 + 2**-7, 1.0]  # half way goes to even
    assert decoded[3] == -torch.finfo(torch.bfloat16).max
    assert decoded[4] == 0
