"""Huffman and range coding of symbols: optimal, as long as predicted, and decoded to the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.compress.coding import ranges, unpack
from pipeline.compress.coding.huffman import code_lengths, huffman_bits, write_huffman
from pipeline.compress.coding.writing import BitWriter, deflated, varint_bytes

DENSITIES = ["none", "one", 0.01, 0.5, "all"]


def bernoulli(density: float | str, size: int) -> np.ndarray:
    """Return flags of a density: none, one of all, a share, all."""
    if isinstance(density, str):
        return np.arange(size) < {"none": 0, "one": 1, "all": size}[density]
    return np.random.default_rng(1).random(size) < density


@pytest.mark.parametrize("width", [1, 3, 8, 11, 32, 63, 64])
def test_fields(width: int) -> None:
    """Numbers of any width behind an odd number of bits."""
    numbers = np.random.default_rng(0).integers(0, 1 << 64, 70_000, np.uint64) >> np.uint64(64 - width)
    writer = BitWriter()
    writer.flags(np.array([1, 0, 1]))
    writer.fields(numbers, width)
    assert writer.length == 3 + 70_000 * width
    writer.whole(b"end")
    bits = unpack.Bits(writer.content())
    assert bits.flags(3).tolist() == [1, 0, 1]
    assert (bits.fields(70_000, width) == numbers).all()
    assert bits.take(3) == b"end"
    bits.check_end()


@pytest.mark.parametrize("counts", [(5, 9, 12, 13, 16, 45), (1, 1, 1, 1), (7,), (0, 3, 0, 1, 2), (1, 2, 4, 8, 16, 32)])
def test_code_lengths_are_best(counts: tuple[int, ...]) -> None:
    """No other lengths that fit together (Kraft) make fewer bits: all of them are tried."""
    found = code_lengths(np.array(counts))
    used = [place for place, count in enumerate(counts) if count]
    if len(used) > 1:
        possible = (
            sum(counts[place] * each for place, each in zip(used, lengths, strict=True))
            for lengths in itertools.product(range(1, 7), repeat=len(used))
            if sum(2.0**-each for each in lengths) <= 1
        )
        assert int((found * np.array(counts)).sum()) == min(possible)
    assert all((length == 0) == (count == 0) for length, count in zip(found, counts, strict=True))


def test_code_lengths_are_limited() -> None:
    """Counts like Fibonacci's would make words as long as there are symbols."""
    counts = np.array([1, 1, *(int(1.618**place) for place in range(2, 40))])
    lengths = code_lengths(counts)
    assert lengths.max() == unpack.LONGEST_CODE
    assert (0.5**lengths).sum() == 1


@pytest.mark.parametrize("size", [1, 2, 17, 256])
@pytest.mark.parametrize("count", [1, 2, 1000, 500_000])
def test_huffman(size: int, count: int) -> None:
    """Symbols come back; the bits are those of the entropy within what whole bits lose."""
    symbols = np.minimum(np.random.default_rng(size).geometric(0.3, count) - 1, size - 1)
    writer = BitWriter()
    length = write_huffman(writer, symbols, size)
    counts = np.bincount(symbols, minlength=size)
    assert writer.length == huffman_bits(counts)
    assert ranges.entropy_bits(counts) <= length <= ranges.entropy_bits(counts) + count
    bits = unpack.Bits(writer.content())
    assert (bits.huffman(count, size, length) == symbols).all()
    bits.check_end()


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("lanes", [1, 16, 64])
@pytest.mark.parametrize("size", [1, 3, 16, 17, 1001])
def test_flags(density: float | str, lanes: int, size: int) -> None:
    """Flags of every density and size come back from as many lanes, with and without context."""
    flags = bernoulli(density, size)
    streams = [ranges.coded_flags(flags, lanes, in_context=in_context) for in_context in (False, True)]
    found = unpack.Lanes(ranges.lane_bytes(streams, lanes))
    assert (found.flags(size, in_context=False) == flags).all()
    assert (found.flags(size, in_context=True) == flags).all()
    found.check_end()


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5])
def test_flags_are_as_long_as_their_entropy(density: float) -> None:
    """Of independent flags, within 1 %, and the file is as long as predicted."""
    flags = bernoulli(density, 200_000)
    stream = ranges.coded_flags(flags, 16, in_context=False)
    bound = ranges.entropy_bits(np.bincount(flags))
    assert bound <= stream.bits <= 1.01 * bound
    stored = len(ranges.lane_bytes([stream], 16)) - 1 - 16 * unpack.STATE_BYTES
    assert 8 * stored == pytest.approx(stream.bits, abs=16 * unpack.STATE_BITS + 16)


def test_context_finds_runs() -> None:
    """Flags that come in runs take fewer bits than their entropy; independent ones hardly more in context."""
    runs = np.repeat(bernoulli(0.1, 10_000), 10)
    bound = ranges.entropy_bits(np.bincount(runs))
    assert ranges.coded_flags(runs, 16, in_context=True).bits < 0.4 * bound
    assert ranges.coded_flags(runs, 16, in_context=False).bits > 0.98 * bound


@pytest.mark.parametrize("size", [2, 5, 256, unpack.SYMBOLS_AT_MOST])
def test_symbols(size: int) -> None:
    """Streams one after another, as long as predicted, and about as long as their entropy."""
    seeded = np.random.default_rng(size)
    first = np.clip(np.rint(seeded.normal(size / 2, max(size / 16, 0.5), 100_000)), 0, size - 1).astype(int)
    second = seeded.integers(0, size, 7)
    streams = [ranges.coded_symbols(symbols, size, 32) for symbols in (first, second)]
    assert streams[0].bits <= 1.03 * ranges.entropy_bits(np.bincount(first))
    found = unpack.Lanes(ranges.lane_bytes(streams, 32))
    assert (found.symbols(len(first), size) == first).all()
    assert (found.symbols(7, size) == second).all()
    found.check_end()


def test_frequencies_are_whole_and_complete() -> None:
    """None is 0, and each row adds up, whatever was seen."""
    for weights in ([[1, 1]], [[1, 2**40]], [[3, 9, 1]] * 4, [[1] * 4096], [[1] * 4095 + [2**33]]):
        found = unpack.frequencies(np.array(weights, np.int64))
        assert (found.sum(axis=1) == unpack.TOTAL).all()
        assert found.min() >= 1


@pytest.mark.parametrize("content", [b"", b"a", b"abc" * 9000, bytes(range(256)) * 40])
def test_deflated(content: bytes) -> None:
    """Whatever way was shortest, the bytes come back, and no more than are expected."""
    packed = deflated(content)
    assert len(packed) <= len(content) + 1
    assert unpack.inflated(packed, len(content)) == content
    if content:
        with pytest.raises(unpack.Damaged, match="more than"):
            unpack.inflated(packed, len(content) - 1)


def test_numbers() -> None:
    """Numbers come back; one that is cut or too large is refused."""
    numbers = [0, 1, 127, 128, 2**32, 2**64 - 1]
    reader = unpack.Numbers(varint_bytes(*numbers), "plan")
    assert [reader.next() for _ in numbers] == numbers
    reader.check_end()
    for content, most in ((b"", 9), (b"\xff", 9), (b"\x80" * 30, 9), (b"\x0a", 9)):
        with pytest.raises(unpack.Damaged):
            unpack.Numbers(content, "plan").next(most)
