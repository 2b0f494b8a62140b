"""The codes that a tensor may be stored in: what each takes, and how it is written; the smallest one is chosen."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.compress.coding import unpack
from pipeline.compress.coding.gaps import best_gap_bits, relative_index
from pipeline.compress.coding.huffman import MOST_SYMBOLS, huffman_bits, write_huffman
from pipeline.compress.coding.mapping import SymbolMapping, best_mappings, ordered_patterns
from pipeline.compress.coding.names import CODE_NAMES
from pipeline.compress.coding.ranges import CodedStream, coded_flags, coded_symbols
from pipeline.compress.coding.writing import BitWriter, deflated

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from numpy.typing import NDArray

    Integers = NDArray[Any]

#: Codes of places are not tried where fewer than this share of the elements is the most frequent value.
LEAST_FREQUENT = 0.05
#: Bits of gaps that are tried beside those of the formula: with Huffman or range coding longer ones cost nothing.
MORE_GAP_BITS = (8,)
#: Bits of the length of a Huffman stream, and of a piece's numbers in the plan, about.
LENGTH_BITS, NUMBER_BITS = 16, 8


@dataclass
class Output:
    """What is written: numbers of the plan, bits of the payload, and streams of the range coder."""

    lanes: int
    plan: list[int] = field(default_factory=list)
    bits: BitWriter = field(default_factory=BitWriter)
    streams: list[CodedStream] = field(default_factory=list)
    codebook_bits: int = 0
    length_bits: int = 0


class Candidate(NamedTuple):
    """A way to store a piece: its number in the plan, a name for people, its bits, and what writes it."""

    code: int
    name: str
    bits: float
    write: Callable[[Output], None]


class CodedSymbols(NamedTuple):
    """Symbols in one code: its number, its bits, and what writes them."""

    code: int
    bits: float
    write: Callable[[Output], None]


def piece_candidates(
    content: bytes, kind: int, *, is_float: bool, lanes: int, codes: Collection[str] = CODE_NAMES
) -> list[Candidate]:
    """Return the ways to store a tensor's bytes, of the type with this number in `unpack.TYPES`.

    Args:
        content: the elements, little-endian.
        kind: of the elements.
        is_float: whether these are floating-point numbers.
        lanes: of the range coder.
        codes: names of the codes that may be used.
    """
    found = [Candidate(unpack.RAW, "raw", 8 * len(content), lambda out: out.bits.whole(content))]
    symbols = SymbolCodes(lanes, codes)
    patterns = ordered_patterns(content, kind)
    found += _dense(patterns, is_float=is_float, symbols=symbols)
    found += _sparse(content, patterns, is_float=is_float, symbols=symbols)
    found += _general(content, min(each.bits for each in found))
    return found


class SymbolCodes:
    """Codes symbols by those codes that are allowed."""

    def __init__(self, lanes: int, codes: Collection[str]) -> None:
        self.lanes, self.codes = lanes, codes

    def coded(self, symbols: Integers, size: int) -> list[CodedSymbols]:
        """Return symbols below `size` in each code."""
        if size == 1:
            return [CodedSymbols(unpack.FIXED, 0, lambda _: None)]
        width = (size - 1).bit_length()
        found = [CodedSymbols(unpack.FIXED, width * len(symbols), lambda out: out.bits.fields(symbols, width))]
        if "huffman" in self.codes and size <= MOST_SYMBOLS:
            bits = huffman_bits(np.bincount(symbols, minlength=size)) + LENGTH_BITS

            def write(out: Output) -> None:
                out.plan.append(write_huffman(out.bits, symbols, size))
                out.length_bits += unpack.LENGTH_BITS * size

            found.append(CodedSymbols(unpack.HUFFMAN, bits, write))
        if "range" in self.codes:
            stream = coded_symbols(symbols, size, self.lanes)
            found.append(CodedSymbols(unpack.RANGE, stream.bits, lambda out: out.streams.append(stream)))
        return found


def _dense(patterns: Integers, *, is_float: bool, symbols: SymbolCodes) -> Iterator[Candidate]:
    """Yield the ways to store every element as a symbol."""
    for mapping in best_mappings(patterns, is_float=is_float):
        for coded in symbols.coded(mapping.symbols(patterns), mapping.size):
            bits = coded.bits + _mapped_bits(mapping, len(patterns))
            name = ("fixed", "huffman", "range")[coded.code]
            yield Candidate(unpack.SPLIT + unpack.DENSE, name, bits, _writer((), None, mapping, coded, patterns))


def _sparse(content: bytes, patterns: Integers, *, is_float: bool, symbols: SymbolCodes) -> Iterator[Candidate]:
    """Yield the ways to store the most frequent value by its places."""
    values, counts = np.unique(patterns, return_counts=True)
    common = values[counts.argmax()]
    flags = patterns != common
    if counts.max() < LEAST_FREQUENT * len(patterns):
        return
    place = int(np.flatnonzero(~flags)[0])
    head = (int(np.frombuffer(content, patterns.dtype)[place]),)
    others = patterns[flags]
    mappings = best_mappings(others, is_float=is_float) if len(others) else [None]
    for mapping in mappings:
        yield from _flagged(flags, others, mapping, head, symbols)
        if mapping is not None and "relative" in symbols.codes and 2 * len(others) <= len(patterns):
            yield from _relative(flags, others, mapping, head, symbols)


def _flagged(
    flags: Integers, others: Integers, mapping: SymbolMapping | None, head: tuple[int, ...], symbols: SymbolCodes
) -> Iterator[Candidate]:
    """Yield codes with one flag for each element: a bitmap, or flags in the range coder."""
    layouts: list[CodedSymbols] = []
    if "bitmap" in symbols.codes:
        layouts.append(CodedSymbols(unpack.BITMAP, len(flags), lambda out: out.bits.flags(flags)))
    for layout in (unpack.FLAGS, unpack.FLAGS_IN_CONTEXT) if "range" in symbols.codes else ():
        stream = coded_flags(flags, symbols.lanes, in_context=layout == unpack.FLAGS_IN_CONTEXT)
        layouts.append(CodedSymbols(layout, stream.bits, _adds(stream)))
    values = [None] if mapping is None else symbols.coded(mapping.symbols(others), mapping.size)
    for places in layouts:
        for coded in values:
            bits = places.bits + (coded.bits if coded else 0) + _mapped_bits(mapping, len(others))
            name = (
                "range" if places.code != unpack.BITMAP else ("bitmap", "huffman", "range")[coded.code if coded else 0]
            )
            yield Candidate(unpack.SPLIT + places.code, name, bits, _writer(head, places, mapping, coded, others))


def _relative(
    flags: Integers, others: Integers, mapping: SymbolMapping, head: tuple[int, ...], symbols: SymbolCodes
) -> Iterator[Candidate]:
    """Yield codes with the number of zeros before each nonzero element; a filler has the symbol 0."""
    value_bits = mapping.size.bit_length() + mapping.low
    best = best_gap_bits(len(others) / len(flags), value_bits)
    for gap_bits in sorted({best, *MORE_GAP_BITS}):
        gaps = relative_index(flags, gap_bits)
        values = np.zeros(len(gaps.zeros), np.int64)
        values[gaps.real] = mapping.symbols(others) + 1
        for places in symbols.coded(gaps.zeros, 1 << gap_bits):
            for coded in symbols.coded(values, mapping.size + 1):
                start = (*head, len(values), gap_bits, places.code)
                bits = places.bits + coded.bits + _mapped_bits(mapping, len(others)) + 3 * NUMBER_BITS
                name = ("relative", "huffman", "range")[max(places.code, coded.code)]
                write = _writer(start, places, mapping, coded, others)
                yield Candidate(unpack.SPLIT + unpack.RELATIVE, name, bits, write)


def _mapped_bits(mapping: SymbolMapping | None, count: int) -> int:
    """Return the bits of codebook, low bits, and numbers of the plan."""
    if mapping is None:
        return NUMBER_BITS
    return mapping.table_bits + mapping.low * count + NUMBER_BITS * (4 if mapping.width else 6)


def _adds(stream: CodedStream) -> Callable[[Output], None]:
    return lambda out: out.streams.append(stream)


def _writer(
    start: Sequence[int],
    places: CodedSymbols | None,
    mapping: SymbolMapping | None,
    coded: CodedSymbols | None,
    patterns: Integers,
) -> Callable[[Output], None]:
    """Return what writes a piece in the order in which `unpack.Decoder` reads it."""

    def write(out: Output) -> None:
        out.plan += start
        if places is not None:
            places.write(out)
        if mapping is not None and coded is not None:
            out.plan += (coded.code, *mapping.numbers())
            mapping.write_table(out.bits)
            out.codebook_bits += mapping.table_bits
            coded.write(out)
            mapping.write_low(patterns, out.bits)

    return write


def _general(content: bytes, best: float) -> Iterator[Candidate]:
    """Yield the bytes compressed by the standard library, where a quick try comes near the best code of ours."""
    if 8 * len(zlib.compress(content, 6)) > 1.15 * best:
        return
    packed = deflated(content)
    if len(packed) >= len(content):
        return

    def write(out: Output) -> None:
        out.plan.append(len(packed))
        out.bits.whole(packed)

    yield Candidate(unpack.LZMA, "general", 8 * len(packed) + 2 * NUMBER_BITS, write)
