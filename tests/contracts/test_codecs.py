"""What every registered codec stage must do, alone and as part of a chain."""

import pytest
import torch

from fedsim.codecs import CODECS, Sparsifier, ValueCodec, pipeline
from fedsim.codecs.base import ROW
from fedsim.codecs.wire import Writer
from fedsim.core import seeds
from fedsim.core.adapter import flatten, norm, subtract

SPARSIFIERS = [kind for kind, cls in CODECS.items() if issubclass(cls, Sparsifier)]
VALUES = [kind for kind, cls in CODECS.items() if issubclass(cls, ValueCodec)]
CHAINS = [[kind] for kind in CODECS] + [[first, last] for first in SPARSIFIERS for last in VALUES]
TOLERANCE = 1 + 1e-6  # of norms; float32 tensors


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=seeds.generator(3, "tensors", *shape))


MESSAGES = {
    "empty": {},
    "scalar": {"s": torch.tensor(-1.25)},
    "mixed": {
        "l.A": randn(4, 33),
        "l.B": 1e-3 * randn(70, 4),
        "conv.A": randn(5, 3, 3, 3),
        "head.bias": randn(7),
        "head.s": torch.tensor(2.0),
    },
    "large": {"l.A": 5 + randn(3, 700)},
    "zeros": {"l.A": torch.zeros(8, 40), "l.B": torch.zeros(6, 8)},
    "half zero": {"l.A": randn(8, 40), "l.B": torch.zeros(6, 8)},
    "constant": {"l.A": torch.full((2, 9), 0.1)},
    "no elements": {"l.A": torch.zeros(0, 5), "l.B": torch.zeros(3, 0), "v": torch.zeros(0)},
    "tiny and huge": {"l.A": torch.tensor([[1e-45, 3e-42, -1e-40], [3e38, -3e38, 1e38]])},
}


def generator() -> torch.Generator:
    return seeds.generator(11, "codec")


def send(chain, tensors):
    codec = pipeline([(kind, {}) for kind in chain])
    payload, _ = codec.compress(tensors, {}, generator())
    return codec, payload, codec.decompress(payload, tensors)


@pytest.fixture(params=CHAINS, ids="-".join)
def chain(request):
    return request.param


@pytest.fixture(params=MESSAGES)
def tensors(request):
    return MESSAGES[request.param]


def test_names_shapes_and_bytes(chain, tensors):
    """wire_bytes_equals_serialised_len, and the body with ``like`` is all that a receiver needs."""
    _, payload, decoded = send(chain, tensors)
    assert payload.num_bytes == len(payload.body)
    assert 0 <= payload.value_bytes <= payload.num_bytes
    assert decoded.keys() == tensors.keys()
    for name, tensor in decoded.items():
        assert (tensor.shape, tensor.dtype) == (tensors[name].shape, torch.float32)
        assert tensor.isfinite().all()


def test_inputs_are_not_mutated(chain, tensors):
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    _, _, decoded = send(chain, tensors)
    for tensor in decoded.values():
        tensor.add_(1)
    assert all(torch.equal(tensors[name], before[name]) for name in before)


def test_deterministic_by_generator(chain, tensors):
    assert send(chain, tensors)[1] == send(chain, tensors)[1]


def test_within_the_stated_error(chain, tensors):
    """A chain adds the errors of its stages: what the first leaves out, and what the last makes of the rest."""
    codec, _, decoded = send(chain, tensors)
    bound, passed_on = 0.0, tensors
    for stage in codec.sparsifiers:
        bound += stage.error_bound(passed_on)
        values = stage.select(flatten(passed_on), Writer(), generator(), False)
        whole = len(values) // ROW * ROW
        passed_on = {"rows": values[:whole].view(-1, ROW), "rest": values[whole:].view(1, -1)}
    bound += codec.values.error_bound(passed_on)
    assert norm(subtract(decoded, tensors)) <= bound * TOLERANCE
    if codec.lossless:
        assert all(torch.equal(decoded[name], tensors[name]) for name in tensors)


def test_a_body_of_another_length_is_refused(chain, tensors):
    codec, payload, _ = send(chain, tensors)
    for body in (payload.body[:-1], payload.body + b"\0", b""):
        if body != payload.body:
            with pytest.raises(ValueError, match="message"):
                codec.decompress(type(payload)(body, 0), tensors)


def test_a_corrupt_body_is_refused_or_read_in_the_right_shape(chain):
    tensors = MESSAGES["half zero"]
    codec, payload, _ = send(chain, tensors)
    rng = seeds.rng(12, "corrupt")
    for _ in range(30):
        body = bytearray(payload.body)
        body[int(rng.integers(min(len(body), 40)))] ^= 1 << int(rng.integers(8))
        try:
            decoded = codec.decompress(type(payload)(bytes(body), 0), tensors)
        except ValueError:
            continue
        assert {name: t.shape for name, t in decoded.items()} == {name: t.shape for name, t in tensors.items()}


def test_a_lossy_codec_names_the_tensor_that_is_not_finite(chain):
    tensors = {"good": torch.ones(3, 3), "bad": torch.tensor([[1.0, float("nan")]])}
    if pipeline([(kind, {}) for kind in chain]).lossless:
        assert send(chain, tensors)[2]["bad"].isnan().any()
    else:
        with pytest.raises(ValueError, match="'bad'"):
            send(chain, tensors)


def test_every_kind_is_a_sparsifier_or_a_value_codec():
    assert sorted(SPARSIFIERS + VALUES) == list(CODECS)
