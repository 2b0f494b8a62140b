"""Strings of bits and numbers as `unpack.py` reads them, and sections compressed by the standard library."""

from __future__ import annotations

import lzma
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.compress.coding.unpack import BLOCK, lzma_filters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[Any]

#: Literal and position bits (lc, lp, pb) of LZMA that are tried: text, and elements of 1, 2 and 4 bytes.
_LZMA = ((3, 0, 0), (0, 0, 0), (1, 0, 0), (1, 1, 1), (0, 1, 1), (0, 2, 2))


def varint_bytes(*numbers: int) -> bytes:
    """Return numbers in groups of seven bits, the lowest first; all but the last group of each have the eighth bit."""
    found = bytearray()
    for number in numbers:
        left = int(number)
        while left > 0x7F:  # noqa: PLR2004 - more than one group
            found.append(left & 0x7F | 0x80)
            left >>= 7
        found.append(left)
    return bytes(found)


def deflated(content: bytes) -> bytes:
    """Return bytes as `inflated` reads them: as they are, by deflate or by LZMA, whichever is shortest."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    found = [b"\0" + content, b"\1" + packer.compress(content) + packer.flush()]
    for lc, lp, pb in _LZMA if len(content) < 1 << 24 else _LZMA[:1]:
        how = 2 + lc + 5 * lp + 25 * pb
        filters: list[dict[str, Any]] = [
            {**each, "preset": 9 | lzma.PRESET_EXTREME} for each in lzma_filters(how, len(content))
        ]
        found.append(bytes([how]) + lzma.compress(content, lzma.FORMAT_RAW, filters=filters))
    return min(found, key=len)


class BitWriter:
    """Writes a string of bits, the highest bit of each byte first."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._pending = np.zeros(0, np.uint8)

    @property
    def length(self) -> int:
        """Bits that were written."""
        return 8 * sum(map(len, self._parts)) + len(self._pending)

    def flags(self, flags: Integers) -> None:
        """Add single bits."""
        bits = np.concatenate([self._pending, flags.astype(np.uint8)])
        whole = len(bits) // 8 * 8
        self._parts.append(np.packbits(bits[:whole]).tobytes())
        self._pending = bits[whole:]

    def fields(self, numbers: Integers, width: int) -> None:
        """Add numbers of `width` bits each, 1 to 64."""
        for start in range(0, len(numbers), BLOCK):
            wide = np.unpackbits(numbers[start : start + BLOCK].astype(">u8").view(np.uint8).reshape(-1, 8), axis=1)
            self.flags(wide[:, 64 - width :].ravel())

    def whole(self, content: bytes) -> None:
        """Add bytes, from the next byte on."""
        self.flags(np.zeros(-len(self._pending) % 8, np.uint8))
        self._parts.append(content)

    def content(self) -> bytes:
        """Return all that was written, filled up to whole bytes."""
        return b"".join(self._parts) + np.packbits(self._pending).tobytes()
