"""From the elements of a tensor to symbols: consecutive numbers or a codebook, and low bits that stay as they are.

An element is looked at as an unsigned integer, its pattern; that of a signed integer has its sign bit turned, so that
the order is that of the values. Its upper part becomes a symbol; the low bits of floating-point numbers and of large
integers are noise, which no code makes shorter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.compress.coding.ranges import entropy_bits
from pipeline.compress.coding.unpack import SIGNED, SYMBOLS_AT_MOST, TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.compress.coding.writing import BitWriter

    Integers = NDArray[Any]

#: Bits of the fraction of floating-point numbers, by all their bits.
FRACTION = {16: 10, 32: 23, 64: 52}
#: Mappings that are tried with every code, the best by estimate.
TRIED = 2


class SymbolMapping(NamedTuple):
    """What symbols stand for: `upper` of a symbol and `low` bits; `width` is 0 where the upper parts are consecutive.

    Otherwise they are a codebook: the first in all bits of an element, then the differences in `width` bits each.
    """

    bits: int
    low: int
    size: int
    width: int
    upper: NDArray[np.uint64]

    @property
    def table_bits(self) -> int:
        """Bits of the codebook."""
        return self.bits + (self.size - 1) * self.width if self.width else 0

    def symbols(self, patterns: Integers) -> NDArray[np.int64]:
        """Return the symbols of elements that the mapping was made of."""
        upper: NDArray[np.uint64] = patterns.astype(np.uint64) >> np.uint64(self.low)
        if not self.width:
            upper -= self.upper[0]
        found: NDArray[np.int64] = (np.searchsorted(self.upper, upper) if self.width else upper).astype(np.int64)
        return found

    def numbers(self) -> tuple[int, ...]:
        """Return what the plan says of the mapping, behind the code of its symbols."""
        start = () if self.width else (int(self.upper[0]),)
        return (self.low, self.size, self.width, *start)

    def write_table(self, writer: BitWriter) -> None:
        """Write the codebook."""
        if self.width:
            writer.fields(self.upper[:1], self.bits)
            writer.fields(np.diff(self.upper), self.width)

    def write_low(self, patterns: Integers, writer: BitWriter) -> None:
        """Write the low bits of elements."""
        if self.low:
            writer.fields(patterns.astype(np.uint64) & np.uint64((1 << self.low) - 1), self.low)


def ordered_patterns(content: bytes, kind: int) -> Integers:
    """Return the patterns of elements of the type with this number in `unpack.TYPES`."""
    patterns = np.frombuffer(content, f"<u{TYPES[kind] // 8}")
    return patterns ^ patterns.dtype.type(1 << (TYPES[kind] - 1)) if kind >= SIGNED else patterns


def best_mappings(patterns: Integers, *, is_float: bool) -> list[SymbolMapping]:
    """Return the mappings with the fewest bits by estimate, the best first; none where every one has too many symbols.

    The estimate is the entropy of the symbols, half a logarithm for learning the frequency of each, the low bits, and
    the codebook.
    """
    values, counts = np.unique(patterns, return_counts=True)
    found = list(_mappings(values.astype(np.uint64), counts, 8 * patterns.itemsize, is_float=is_float))
    return [mapping for _, mapping in sorted(found, key=lambda each: each[0])[:TRIED]]


def _mappings(
    values: NDArray[np.uint64], counts: Integers, bits: int, *, is_float: bool
) -> Iterator[tuple[float, SymbolMapping]]:
    total = int(counts.sum())
    for low in _low_bits(int(values[-1] - values[0]), bits, is_float=is_float):
        upper = values >> np.uint64(low)
        starts = np.flatnonzero(np.diff(upper, prepend=upper[0] ^ np.uint64(1)))
        table, each = upper[starts], np.add.reduceat(counts, starts)
        span = int(table[-1] - table[0]) + 1
        coded = entropy_bits(each) + low * total
        if span <= SYMBOLS_AT_MOST:
            yield coded + _learning(span, total), SymbolMapping(bits, low, span, 0, table[:1])
        if len(table) <= SYMBOLS_AT_MOST:
            width = int(np.diff(table).max(initial=1)).bit_length()
            mapping = SymbolMapping(bits, low, len(table), width, table)
            yield coded + _learning(len(table), total) + mapping.table_bits, mapping


def _learning(size: int, total: int) -> float:
    return 0.5 * (size - 1) * float(np.log2(1 + total / size))


def _low_bits(span: int, bits: int, *, is_float: bool) -> list[int]:
    """Return the numbers of low bits that are tried: none, and those that leave a few significant bits."""
    top = FRACTION.get(bits, bits) if is_float else span.bit_length() - 3
    return [0, *(top - more for more in range(7) if top - more > 0)]
