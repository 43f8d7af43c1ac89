import math

import pytest
import torch

from fedsim.codecs import pipeline
from fedsim.codecs.wire import Reader
from fedsim.core import seeds


def send(tensors, seed=0, **knobs):
    codec = pipeline([("qsgd", knobs)])
    payload, _ = codec.compress(tensors, {}, seeds.generator(seed, "qsgd"))
    return payload, codec.decompress(payload, tensors)


def test_by_hand():
    payload, decoded = send({"a": torch.tensor([3.0, 0.0, -4.0])}, levels=5)  # norm 5: levels 3, 0, 4 without rounding
    reader = Reader(payload.body)
    assert reader.floats(1).tolist() == [5.0]
    assert reader.codes(3, 4).tolist() == [5 + 3, 5, 5 - 4]
    assert decoded["a"].tolist() == [3.0, 0.0, -4.0]


@pytest.mark.parametrize(("levels", "bits"), [(1, 2), (3, 3), (7, 4), (8, 5), (127, 8)])
def test_bits_per_value(levels, bits):
    payload, _ = send({"a": torch.ones(80, 10)}, levels=levels, bucket=100)
    assert payload.value_bytes == 800 * bits // 8
    assert payload.num_bytes == payload.value_bytes + 8 * 4


def test_one_norm_per_bucket_or_per_tensor():
    tensors = {"a": torch.ones(3, 5), "b": torch.ones(4)}
    assert [send(tensors, bucket=bucket)[0].num_bytes for bucket in (None, 2)] == [8 + 2 + 2 * 4, 8 + 2 + (8 + 2) * 4]


def test_buckets_do_not_see_each_other():
    _, decoded = send({"a": torch.tensor([1e-3, 0.0, 1e6, 0.0, 7.0])}, bucket=2)
    assert decoded["a"].tolist() == pytest.approx([1e-3, 0.0, 1e6, 0.0, 7.0])


def test_a_single_large_value_is_exact_and_does_not_overflow():
    largest = torch.finfo(torch.float32).max
    _, decoded = send({"a": torch.tensor([largest, 0.0]), "b": torch.full((600,), largest)})
    assert decoded["a"].tolist() == [largest, 0.0]
    assert decoded["b"].isfinite().all()


@pytest.mark.parametrize("levels", [1, 2, 7])
def test_qsgd_unbiased_and_bound(levels):
    vector, draws = torch.tensor([3.0, -0.1, 0.0, 4.0, 0.7, -2.2]), 20_000
    n, square = len(vector), float(vector.square().sum())
    _, decoded = send({"a": vector.repeat(draws, 1)}, levels=levels, bucket=n)
    found = decoded["a"].double()
    step = math.sqrt(square) / levels
    assert ((found.mean(0) - vector).abs() <= 5 * step / 2 / math.sqrt(draws)).all()
    error = float((found - vector).square().sum(1).mean())
    fraction = (vector.double().abs() / step).frac()
    assert error == pytest.approx(step**2 * float((fraction * (1 - fraction)).sum()), rel=0.03)
    assert error <= min(n / levels**2, math.sqrt(n) / levels) * square


def test_values_that_are_fed_back_are_divided_by_one_plus_the_variance():
    codec = pipeline([("topk", {"density": 1.0, "error_feedback": True}), ("qsgd", {"levels": 1})])
    tensors = {"a": torch.tensor([3.0, 0.0, 0.0, 0.0])}
    payload, kept = codec.compress(tensors, {}, seeds.generator(0, "qsgd"))
    assert codec.decompress(payload, tensors)["a"].tolist() == [1.0, 0, 0, 0]  # w = min(4 / 1, sqrt(4) / 1) = 2
    assert kept["a"].tolist() == [2.0, 0, 0, 0]
