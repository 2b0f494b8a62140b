"""PNG files made by hand, so that they can be wrong in one place."""

from __future__ import annotations

import struct
import zlib

START = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int, height: int, pixel: int, bits: int = 8, interlaced: int = 0) -> bytes:
    """Return the first chunk; `pixel` is PNG's number of a kind of pixel."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, pixel, 0, 0, interlaced))


def png(lines: bytes, width: int, height: int, pixel: int = 0, **more: int) -> bytes:
    """Return a file whose unpacked lines are given, filters included."""
    return START + header(width, height, pixel, **more) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
