"""Adaptive range coding (rANS) with lanes that numpy decodes together: the encoder of `unpack.Lanes`.

Frequencies come from what was coded before, so that no table is stored. Source: J. Duda, "Asymmetric numeral systems",
arXiv 1311.2540; F. Giesen, "Interleaved entropy coders", arXiv 1402.3392; estimates by Krichevsky and Trofimov, 1981.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.compress.coding.unpack import (
    CONTEXTS,
    LEAST,
    SCALE_BITS,
    STATE_BITS,
    STATE_BYTES,
    WORD_BITS,
    frequencies,
    generations,
    step_counts,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Integers = NDArray[Any]

#: Symbols for each lane that are worth the bytes of its state; lanes at least and at most.
SYMBOLS_PER_LANE, FEWEST, MOST = 1 << 14, 16, 256


class CodedStream(NamedTuple):
    """Symbols of one stream with their frequencies, out of TOTAL, and where they start: each [steps, lanes].

    What lies behind the end of the last lane has a frequency of 0.
    """

    frequency: NDArray[np.int64]
    base: NDArray[np.int64]

    @property
    def bits(self) -> float:
        """Bits that the stream takes, up to the rounding of states."""
        each = self.frequency[self.frequency > 0]
        return float(SCALE_BITS * each.size - np.log2(each).sum())


def lanes_for(symbols: int) -> int:
    """Return how many lanes a file with so many symbols has: more are decoded faster, and each costs five bytes."""
    wanted = symbols // SYMBOLS_PER_LANE
    return max(FEWEST, min(MOST, 1 << max(wanted, 1).bit_length() - 1))


def coded_symbols(symbols: Integers, size: int, lanes: int) -> CodedStream:
    """Return a stream of symbols below `size`, without context."""
    return _coded(symbols.astype(np.int64), np.zeros(len(symbols), np.int64), (1, size), lanes)


def coded_flags(flags: Integers, lanes: int, *, in_context: bool) -> CodedStream:
    """Return a stream of flags; in context their frequencies depend on the two flags before, in the same lane."""
    context = np.zeros(len(flags), np.int64)
    if in_context:
        steps, _ = step_counts(len(flags), lanes)
        at = np.arange(len(flags)) % steps
        context[1:] += 2 * (flags[:-1] > 0) * (at[1:] >= 1)
        context[2:] += (flags[:-2] > 0) * (at[2:] >= 2)  # noqa: PLR2004 - two steps back
    return _coded((flags > 0).astype(np.int64), context, (CONTEXTS if in_context else 1, 2), lanes)


def _coded(symbols: Integers, context: Integers, shape: tuple[int, int], lanes: int) -> CodedStream:
    """Return frequencies and bases, which change after each generation by what was coded in it."""
    steps, used = step_counts(len(symbols), lanes)
    flat = np.full(steps * used, -1)
    flat[: len(symbols)] = context * shape[1] + symbols
    cells = flat.reshape(used, steps).T
    weights = np.ones(shape, np.int64)
    parts = []
    for start, end in generations(len(symbols), lanes):
        each, seen = frequencies(weights), cells[start:end]
        bases = np.cumsum(each, axis=1) - each
        is_there = seen >= 0
        parts.append((np.where(is_there, each.ravel()[seen], 0), np.where(is_there, bases.ravel()[seen], 0)))
        weights += 2 * np.bincount(seen[is_there], minlength=weights.size).reshape(shape)
    return CodedStream(np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]))


def lane_bytes(streams: Sequence[CodedStream], lanes: int) -> bytes:
    """Return the section `lanes` with these streams in their order; empty without any.

    The last symbol is coded first. Words are written by lanes in the order in which they will be read.
    """
    if not streams:
        return b""
    states = np.full(lanes, LEAST, np.int64)
    words: list[NDArray[np.uint16]] = []
    for stream in reversed(streams):
        for frequency, base in zip(stream.frequency[::-1], stream.base[::-1], strict=True):
            active = np.count_nonzero(frequency)
            each = frequency[:active]
            found = states[:active]
            large = found >= each << (STATE_BITS + WORD_BITS - SCALE_BITS)
            if large.any():
                words.append((found[large] & 0xFFFF).astype("<u2"))
                found = np.where(large, found >> WORD_BITS, found)
            states[:active] = (found // each << SCALE_BITS) + found % each + base[:active]
    stored = (states[:, None] >> (8 * np.arange(STATE_BYTES))).astype(np.uint8).tobytes()
    return bytes([lanes.bit_length() - 1]) + stored + b"".join(each.tobytes() for each in reversed(words))


def entropy_bits(counts: Integers) -> float:
    """Return the zeroth-order entropy of all symbols with these counts, in bits: no code without context needs less."""
    used = counts[counts > 0].astype(np.float64)
    return float(-(used * np.log2(used / used.sum())).sum()) if used.size else 0.0
