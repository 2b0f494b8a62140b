"""Relative index: the places of nonzero elements as the numbers of zeros before them, in m bits each.

Source: Han, Mao and Dally, "Deep Compression", arXiv 1510.00149, section 2 and figure 2. Where 2**m or more zeros
follow one another, a filler, an entry for a zero, stands after each 2**m - 1 of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Bits of a gap that are allowed.
GAP_BITS = range(1, 13)


class Gaps(NamedTuple):
    """Entries of a relative index: the zeros before each [entries], and whether it is a nonzero element, no filler."""

    zeros: NDArray[np.int64]
    real: NDArray[np.bool_]


def entry_bits(density: float, gap_bits: int, value_bits: float) -> float:
    """Return the expected bits for each nonzero element, of elements that are nonzero independently of each other.

    With q = 1 - density a nonzero element needs E = q^(2^m) / (1 - q^(2^m)) fillers, each as long as an entry.

    Args:
        density: share of nonzero elements, above 0 and at most 1.
        gap_bits: m, bits of a gap.
        value_bits: bits of a value.
    """
    runs = (1 - density) ** (1 << gap_bits)
    return (1 + runs / (1 - runs)) * (gap_bits + value_bits)


def best_gap_bits(density: float, value_bits: float) -> int:
    """Return the bits of a gap with which `entry_bits` is smallest; arguments are those of `entry_bits`."""
    return min(GAP_BITS, key=lambda bits: entry_bits(density, bits, value_bits))


def relative_index(flags: NDArray[Any], gap_bits: int) -> Gaps:
    """Return the entries for flags [n] that say which elements are nonzero; zeros at the end have none."""
    places = np.flatnonzero(flags)
    zeros = np.diff(places, prepend=-1) - 1
    fillers, rest = zeros >> gap_bits, zeros & ((1 << gap_bits) - 1)
    ends = np.cumsum(fillers + 1) - 1
    found = np.full(int(ends[-1]) + 1 if len(ends) else 0, (1 << gap_bits) - 1)
    real = np.zeros(len(found), bool)
    found[ends], real[ends] = rest, True
    return Gaps(found, real)
