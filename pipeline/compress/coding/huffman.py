"""Huffman codes of limited length: what the encoder needs beside `unpack.canonical_codes`.

Source: D. A. Huffman, "A Method for the Construction of Minimum-Redundancy Codes", 1952; the limit by Larmore and
Hirschberg's package-merge, 1990.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.compress.coding.unpack import LENGTH_BITS, LONGEST_CODE, canonical_codes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.compress.coding.writing import BitWriter

    Counts = NDArray[np.int64]
#: A code of more symbols is not tried: its lengths alone would be as long as most layers.
MOST_SYMBOLS = 512


def code_lengths(counts: Counts, longest: int = LONGEST_CODE) -> Counts:
    """Return the length of each symbol's code word, 0 where it does not occur; the sum over all occurrences is least.

    Args:
        counts: how often each symbol occurs [symbols]; at most 2**longest may occur.
        longest: no word is longer.
    """
    used = np.flatnonzero(counts)
    lengths = np.zeros(len(counts), np.int64)
    if len(used) <= 1:
        lengths[used] = 1
        return lengths
    leaves = sorted((int(counts[symbol]), (int(symbol),)) for symbol in used)
    packages: list[tuple[int, tuple[int, ...]]] = []
    for _ in range(longest):
        merged = sorted(leaves + packages, key=lambda each: each[0])
        pairs = zip(merged[::2], merged[1::2], strict=False)
        packages = [(one[0] + other[0], one[1] + other[1]) for one, other in pairs]
    for _, symbols in packages[: len(used) - 1]:
        np.add.at(lengths, list(symbols), 1)
    return lengths


def huffman_bits(counts: Counts) -> int:
    """Return the bits that symbols with these counts take in a Huffman code, the lengths of its words included."""
    return int((counts * code_lengths(counts)).sum()) + LENGTH_BITS * len(counts)


def write_huffman(writer: BitWriter, symbols: NDArray[Any], size: int) -> int:
    """Write the lengths of all `size` words, then the words of the symbols; return the bits of the latter."""
    lengths = code_lengths(np.bincount(symbols, minlength=size))
    writer.fields(lengths, LENGTH_BITS)
    start = writer.length
    codes = canonical_codes(lengths)
    for begin in range(0, len(symbols), 1 << 16):
        part = symbols[begin : begin + (1 << 16)]
        words = codes[part].astype(">u2").view(np.uint8).reshape(-1, 2)
        bits = np.unpackbits(words, axis=1)[:, 16 - LONGEST_CODE :]
        writer.flags(bits[np.arange(LONGEST_CODE) < lengths[part][:, None]])
    return writer.length - start
