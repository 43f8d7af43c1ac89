import numpy as np
import pytest
import torch

from fedsim.codecs.wire import (
    BITMAP,
    FULL,
    GAPS,
    Reader,
    Writer,
    bitmap_bytes,
    float_bytes,
    pack,
    packed_bytes,
    read_support,
    support_bytes,
    unpack,
    varint_bytes,
)
from fedsim.core import seeds


def indices(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def test_pack_puts_the_first_code_in_the_lowest_bits():
    assert pack(np.array([1, 2, 3, 0], np.uint8), 2) == bytes([0b00_11_10_01])
    assert pack(np.array([0xA, 0x5, 0xF], np.uint8), 4) == bytes([0x5A, 0x0F])
    assert pack(np.array([7, 255], np.uint8), 8) == bytes([7, 255])
    assert pack(np.array([0b101, 0b011, 0b110], np.uint8), 3) == bytes([0b10_011_101, 0b1])


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 3, 8, 61])
def test_quant_roundtrip_pack(bits, count):
    codes = seeds.rng(1, "codes", bits, count).integers(0, 2**bits, count).astype(np.uint8)
    raw = pack(codes, bits)
    assert len(raw) == packed_bytes(count, bits) == -(-count * bits // 8)
    assert np.array_equal(unpack(np.frombuffer(raw, np.uint8), bits, count), codes)


def test_varints_by_hand():
    assert varint_bytes(np.array([0, 127, 128, 300])) == bytes([0, 127, 0x80, 1, 0xAC, 2])


def test_varints_round_trip_and_leave_the_rest():
    numbers = np.array([5, 0, 127, 128, 2**14 - 1, 2**14, 2**31, 2**40])
    reader = Reader(varint_bytes(numbers) + b"\xff\x07")
    assert np.array_equal(reader.varints(len(numbers)), numbers)
    assert reader.take(2).tobytes() == b"\xff\x07"
    reader.finish()


def test_float_bytes_are_little_endian_float32():
    assert float_bytes(torch.tensor([1.0, -2.0])) == bytes.fromhex("0000803f000000c0")
    assert torch.equal(Reader(bytes.fromhex("0000803f000000c0")).floats(2), torch.tensor([1.0, -2.0]))


def test_writer_keeps_values_and_overhead_apart():
    writer = Writer()
    writer.overhead(b"abc")
    writer.values(b"de")
    assert (writer.body, writer.value_bytes) == (b"abcde", 2)


@pytest.mark.parametrize(
    ("support", "numel", "form", "size"),
    [
        (indices(), 0, FULL, 1),
        (indices(0, 1, 2), 3, FULL, 1),
        (indices(1, 3), 10, BITMAP, 1 + 2),
        (indices(), 100, GAPS, 1 + 1),
        (indices(99), 100, GAPS, 1 + 2),
        (indices(0, 200), 1000, GAPS, 1 + 1 + 1 + 2),  # count, gap 0, gap 199
    ],
)
def test_support_takes_its_shortest_form(support, numel, form, size):
    raw = support_bytes(support, numel)
    assert (raw[0], len(raw)) == (form, size)
    reader = Reader(raw)
    assert torch.equal(read_support(reader, numel), support)
    reader.finish()


@pytest.mark.parametrize("density", [0.001, 0.03, 0.1, 0.125, 0.5, 0.99])
def test_support_round_trips_and_never_exceeds_a_bitmap_or_indices(density):
    numel = 5003
    support = (torch.rand(numel, generator=seeds.generator(2, "support")) < density).nonzero().flatten()
    raw = support_bytes(support, numel)
    assert len(raw) <= 1 + min(len(bitmap_bytes(support, numel)), 4 * len(support))
    assert torch.equal(read_support(Reader(raw), numel), support)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "ends after 0 bytes"),
        (b"\x03", "form 3"),
        (b"\x01\xff", "ends after 2 bytes"),
        (b"\x02\x80", "before 1 integers"),
        (b"\x02\x0b", "claims 11 coordinates out of 10"),
        (b"\x02\x01\x0a", "skips 10 coordinates"),
        (b"\x02\x02\x05\x05", "names coordinate 11 out of 10"),
        (b"\x02" + b"\xff" * 9 + b"\x01", "more than 9 bytes"),
    ],
)
def test_a_broken_support_is_refused(body, message):
    with pytest.raises(ValueError, match=message):
        read_support(Reader(body), 10)


def test_left_over_bytes_are_refused():
    with pytest.raises(ValueError, match="3 bytes more"):
        Reader(b"abc").finish()


# algorithms.md 0.3: compression against dense values of the same width.
TABLE = {  # 1/density: (fp32 COO-32, fp32 bitmap, fp16 COO-32, fp16 bitmap)
    2: (1.00, 1.88, 0.67, 1.78),
    4: (2.00, 3.56, 1.33, 3.20),
    8: (4.00, 6.40, 2.67, 5.33),
    16: (8.00, 10.67, 5.33, 8.00),
    32: (16.00, 16.00, 10.67, 10.67),
    64: (32.00, 21.33, 21.33, 12.80),
    256: (128.0, 28.44, 85.33, 15.06),
}


@pytest.mark.parametrize("inverse", TABLE)
def test_compression_table(inverse):
    numel = 2**16
    support = torch.arange(0, numel, inverse)
    bitmap, coo = len(bitmap_bytes(support, numel)), 4 * len(support)
    ratios = [numel * width / (len(support) * width + cost) for width in (4, 2) for cost in (coo, bitmap)]
    assert [round(ratio, 2) for ratio in ratios] == pytest.approx(TABLE[inverse])
    assert (bitmap < coo) == (1 / inverse > 1 / 32)
