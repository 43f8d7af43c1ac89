import pytest
import torch

from fedsim.codecs import pipeline
from fedsim.codecs.wire import Reader
from fedsim.core import seeds

GENERATOR = seeds.generator(0, "unused")


def send(tensors, bits, *before):
    codec = pipeline([*before, ("affine", {"bits": bits})])
    payload, _ = codec.compress(tensors, {}, GENERATOR)
    return payload, codec.decompress(payload, tensors)


def test_by_hand():
    tensors = {"a": torch.tensor([[0.0, 1.0, 2.0, 3.4], [-6.0, -6.0, 0.0, 9.0]])}  # 2 bits: steps of 3.4/3 and of 5
    payload, decoded = send(tensors, 2)
    reader = Reader(payload.body)
    assert reader.floats(4).tolist() == pytest.approx([3.4 / 3, 0.0, 5.0, -6.0])
    assert reader.codes(8, 2).tolist() == [0, 1, 2, 3, 0, 0, 1, 3]
    assert decoded["a"].tolist() == [pytest.approx([0, 3.4 / 3, 6.8 / 3, 3.4]), [-6.0, -6.0, -1.0, 9.0]]
    assert (payload.num_bytes, payload.value_bytes) == (2 + 2 * 8, 2)


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_affine_quant_half_step(bits, offset):
    tensor = offset + torch.randn(6, 50, 3, generator=seeds.generator(1, "x", bits))
    _, decoded = send({"a": tensor}, bits)
    rows, found = tensor.flatten(1).double(), decoded["a"].flatten(1).double()
    scale = (rows.amax(1, keepdim=True) - rows.amin(1, keepdim=True)) / (2**bits - 1)
    rounding = 2**-23 * abs(offset)
    assert ((found - rows).abs() <= 0.5001 * scale + rounding).all()
    assert ((found - rows).abs() / scale).max() > 0.4


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_affine_constant_channel(bits):
    tensors = {"a": torch.tensor([[0.1, 0.1, 0.1], [0.0, 0.0, 0.0], [1.0, 2.0, 4.0], [-3e38, -3e38, -3e38]])}
    _, decoded = send(tensors, bits)
    assert torch.equal(decoded["a"][[0, 1, 3]], tensors["a"][[0, 1, 3]])
    assert torch.isfinite(decoded["a"]).all()


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_affine_is_idempotent_to_float_rounding(bits):
    tensor = torch.randn(5, 40, generator=seeds.generator(2, "x"))
    first, once = send({"a": tensor}, bits)
    second, twice = send(once, bits)
    assert torch.allclose(once["a"], twice["a"], rtol=0, atol=1e-6)
    assert first.body[5 * 8 :] == second.body[5 * 8 :]  # the codes


def test_channels_do_not_see_each_other():
    small, large = torch.tensor([[0.0, 0.001]]), torch.tensor([[-100.0, 100.0]])
    _, decoded = send({"a": torch.cat([small, large])}, 8)
    assert decoded["a"][0].tolist() == pytest.approx([0, 0.001])


def test_the_full_range_of_float32_does_not_overflow():
    tensors = {"a": torch.tensor([[-3e38, 0.0, 3e38]])}
    assert send(tensors, 8)[1]["a"].isfinite().all()


def test_a_range_of_a_few_subnormal_steps_does_not_wrap_around():
    smallest = 2.0**-149
    tensors = {"a": torch.tensor([[0.0, 21 * smallest]], dtype=torch.float64).float()}  # scale 1.4 is rounded to 1
    assert send(tensors, 4)[1]["a"].tolist() == [[0.0, 15 * smallest]]


def test_vectors_and_scalars_stay_float32():
    tensors = {"norm": torch.tensor([0.1, 0.2, 0.7]), "scalar": torch.tensor(0.3)}
    payload, decoded = send(tensors, 2)
    assert payload.num_bytes == 16
    assert all(torch.equal(decoded[name], tensors[name]) for name in tensors)


def test_after_a_sparsifier_a_channel_is_a_row_of_512_values():
    tensors = {"a": torch.arange(1.0, 601.0), "b": torch.tensor([[0.0, -1e6]])}  # 601 values that are not zero
    payload, decoded = send(tensors, 8, ("sparse", {}))
    assert payload.value_bytes == 601
    assert payload.num_bytes == 601 + 2 * 8 + 1 + 76  # two rows; form, and a bitmap of 602 bits
    assert (decoded["a"][:512] - tensors["a"][:512]).abs().max() <= 511 / 255 / 2 + 1e-3  # not coarsened by -1e6
    assert decoded["b"][0, 0] == 0
