#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Give back the files that lie in a packed one, byte for byte: Python 3.9 or newer and numpy.

    python unpack.py model.onnx.packed
    python unpack.py model.xml.packed --out folder

In a program of your own: `unpack_files(content)` returns the content of each file by its name.

A packed file holds the bytes of an exported network, cut into pieces (tensors, each in the code that is smallest for
it) and the rest (graph, names), which is compressed as a whole. It is not trusted: sizes are compared with what is
there before memory is taken, and what comes out has to have the sha256 of the header.

    "secpack", format (1 byte), crc32 of all that follows (4 bytes)
    number of files; of each: length of the name, name, bytes, sha256 (32 bytes)
    bytes of the sections rest, plan, payload, lanes; then the sections themselves

Numbers stand in groups of seven bits, the lowest first; all but the last group have the eighth bit. `plan` lists the
pieces, `payload` is a string of bits, and `lanes` the words of a range coder (rANS) whose lanes numpy decodes together.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import os
import secrets
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Integers = NDArray[Any]

MAGIC, FORMAT = b"secpack", 1
SUFFIX = ".packed"
#: Files that one holds at most, bytes of all of them together, and how much larger they may be than the packed file.
FILES_AT_MOST, BYTES_AT_MOST = 1000, 4 << 30
LARGER_AT_MOST, SMALL = 4096, 1 << 24
LONGEST_NAME = 255
#: What the names of files end in that are not whole yet.
PARTIAL = ".partial"
CRC_BYTES, DIGEST_BYTES = 4, 32
#: Bits of an element by the number of its type: 1, 2, 4 and 8 bytes; from 4 on the same of signed integers.
TYPES = (8, 16, 32, 64, 8, 16, 32, 64)
SIGNED = 4
#: How a piece is stored. From SPLIT on: which elements are the most frequent value, and the symbols of the others.
RAW, DEFLATE, LZMA, COPY, PRODUCT, SPLIT = range(6)
DENSE, BITMAP, RELATIVE, FLAGS, FLAGS_IN_CONTEXT = range(5)
#: How symbols are stored.
FIXED, HUFFMAN, RANGE = range(3)
SYMBOLS_AT_MOST = 4096
LENGTH_BITS, LONGEST_CODE = 4, 15
#: The range coder: frequencies add up to 2**16, a lane's state is at least 2**24, and words have 16 bits.
SCALE_BITS, STATE_BITS, WORD_BITS = 16, 24, 16
TOTAL, LEAST = 1 << SCALE_BITS, 1 << STATE_BITS
STATE_BYTES = 5
LANES_AT_MOST = 1024
#: Contexts of a flag: whether the two before it were set.
CONTEXTS = 4
BLOCK = 1 << 16


class Damaged(Exception):
    """A packed file cannot be unpacked; the text says why in one line."""

    exit_code = 2


class PackedFile(NamedTuple):
    """A file that lies in a packed one."""

    name: str
    size: int
    digest: bytes


class Sections(NamedTuple):
    """What a packed file consists of."""

    files: Sequence[PackedFile]
    rest: bytes
    plan: bytes
    payload: bytes
    lanes: bytes


class Piece(NamedTuple):
    """A piece of a file: how many bytes of the rest come before it, type, number of elements, and how it is stored."""

    skip: int
    kind: int
    elements: int
    code: int

    @property
    def bits(self) -> int:
        """Bits of an element."""
        return TYPES[self.kind]

    @property
    def size(self) -> int:
        """Bytes of the piece."""
        return self.elements * self.bits // 8


def unpack_files(content: bytes) -> dict[str, bytes]:
    """Return the content of each file in a packed one, by its name.

    Raises:
        Damaged: it is not a packed file, of a newer format, cut or changed.
    """
    sections = read_sections(content)
    try:
        files = _joined(sections)
    except (ValueError, IndexError, OverflowError) as error:  # what checks before did not find, of any array
        raise Damaged(f"it was changed: {error}") from error
    for file in sections.files:
        if hashlib.sha256(files[file.name]).digest() != file.digest:
            raise Damaged(f"it was changed: {file.name} does not have the sha256 of the header")
    return files


def write_files(files: dict[str, bytes], folder: Path) -> list[Path]:
    """Write files into a folder, made where there is none, so that none is ever there in part; return their places.

    All are written under other names beside their places before the first is renamed. What a run that was killed has
    left there is removed; a file that is there already has to be the same, and stays.

    Raises:
        Damaged: something else has one of the names; nothing is written then.
        OSError: one cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = {folder / name: content for name, content in files.items()}
    written: dict[Path, Path] = {}
    try:
        for place, content in [(place, content) for place, content in places.items() if not _is_there(place, content)]:
            written[place] = _beside(place)
            with written[place].open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        for place, partial in written.items():
            partial.replace(place)
    finally:
        for partial in written.values():
            partial.unlink(missing_ok=True)
    return list(places)


def _is_there(place: Path, content: bytes) -> bool:
    """Return whether a file is there with this content. Raises Damaged where it has another, or is no file."""
    if not os.path.lexists(place):
        return False
    if place.is_file() and place.stat().st_size == len(content) and place.read_bytes() == content:
        return True
    raise Damaged(f"{place} is there already, and is something else: move it, or give --out")


def _beside(place: Path) -> Path:
    """Return a new name beside a place, by which what is left over of it is found, and remove that."""
    start = f".{hashlib.sha256(place.name.encode()).hexdigest()[:16]}"
    for left_over in place.parent.glob(f"{start}.*{PARTIAL}"):
        left_over.unlink()
    return place.with_name(f"{start}.{secrets.token_hex(4)}{PARTIAL}")


# -- header and sections -----------------------------------------------------------------------------------------------


class Numbers:
    """Reads numbers one after another; `what` is named where they end too early."""

    def __init__(self, content: bytes, what: str, at: int = 0) -> None:
        self.content, self._what, self.at = content, what, at

    def next(self, at_most: int = (1 << 64) - 1) -> int:
        """Return the next number. Raises Damaged where there is none, or it is larger than allowed."""
        value = shift = 0
        while True:
            if self.at >= len(self.content):
                raise Damaged(f"it is cut: its {self._what} ends too early")
            byte = self.content[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if value > at_most or shift > 70:  # noqa: PLR2004 - ten groups hold 64 bits
                raise Damaged(f"it was changed: its {self._what} has a number above {at_most:,}")
            if byte < 0x80:  # noqa: PLR2004 - no group follows
                return value

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        if count > len(self.content) - self.at:
            raise Damaged(f"it is cut: its {self._what} ends too early")
        self.at += count
        return bytes(self.content[self.at - count : self.at])

    def check_end(self) -> None:
        """Raise Damaged where something is left."""
        if self.at != len(self.content):
            raise Damaged(f"it was changed: its {self._what} has {len(self.content) - self.at:,} bytes too many")


def is_packed(content: bytes) -> bool:
    """Return whether this is, or begins as, a packed file."""
    return content[: len(MAGIC)] == MAGIC


def read_sections(content: bytes) -> Sections:
    """Return files and sections of a packed file. Raises Damaged."""
    if not is_packed(content):
        raise Damaged("it is not a packed network: secateur pack makes one")
    start = len(MAGIC) + 1 + CRC_BYTES
    if len(content) < start:
        raise Damaged("it is cut: its header ends too early")
    if content[len(MAGIC)] != FORMAT:
        found = content[len(MAGIC)]
        raise Damaged(f"it is of format {found}, this program reads {FORMAT}; use the unpack.py that came with it")
    numbers = Numbers(content, "header", start)
    files = _read_files(numbers)
    sizes = [numbers.next() for _ in range(4)]
    end = numbers.at + sum(sizes)
    if len(content) < end:
        raise Damaged(f"it is cut: it has {len(content):,} bytes, its header says {end:,}")
    if zlib.crc32(content[start:]) != int.from_bytes(content[start - CRC_BYTES : start], "little"):
        raise Damaged("it was changed: its checksum is not that of the header")
    sections = [numbers.take(size) for size in sizes]
    numbers.check_end()
    most = min(BYTES_AT_MOST, LARGER_AT_MOST * len(content) + SMALL)
    size = sum(file.size for file in files)
    if size > most:
        raise Damaged(f"it claims to hold {size:,} bytes, allowed for its size: {most:,}")
    return Sections(files, *sections)


def _read_files(numbers: Numbers) -> list[PackedFile]:
    files = []
    for _ in range(numbers.next(FILES_AT_MOST)):
        name = numbers.take(numbers.next(LONGEST_NAME)).decode("utf-8", "replace")
        check_name(name)
        files.append(PackedFile(name, numbers.next(BYTES_AT_MOST), numbers.take(DIGEST_BYTES)))
    if not files or len({file.name for file in files}) != len(files):
        raise Damaged("it was changed: it names no file, or one twice")
    return files


def check_name(name: str) -> None:
    """Refuse a name that is not that of a file in the same folder."""
    if not name.isprintable() or not name.strip(". ") or set(name) & set("/\\:\ufffd"):
        raise Damaged(f"it names the file {name!a}, allowed: a name without folders")


def inflated(content: bytes, at_most: int) -> bytes:
    """Return what `deflated` of the encoder compressed: a first byte says how. Raises Damaged."""
    if not content:
        raise Damaged("it was changed: a section is empty")
    how, packed = content[0], content[1:]
    if how == 0:
        found = packed
    elif how == 1:
        found = _decompressed(zlib.decompressobj(-15), packed, at_most)
    else:
        found = _decompressed(lzma.LZMADecompressor(lzma.FORMAT_RAW, None, lzma_filters(how, at_most)), packed, at_most)
    if len(found) > at_most:
        raise Damaged(f"it was changed: a section unpacks to more than {at_most:,} bytes")
    return found


def lzma_filters(how: int, size: int) -> list[dict[str, int]]:
    """Return the filters of LZMA that the byte `how` stands for: 2 and its literal and position bits (lc, lp, pb)."""
    lc, lp, pb = (how - 2) % 5, (how - 2) // 5 % 5, (how - 2) // 25
    if how < 2 or pb > 4 or lc + lp > 4:  # noqa: PLR2004 - the limits of LZMA
        raise Damaged(f"it was changed: a section is compressed in an unknown way ({how})")
    return [{"id": lzma.FILTER_LZMA1, "dict_size": min(max(size, 4096), 1 << 26), "lc": lc, "lp": lp, "pb": pb}]


def _decompressed(decompressor: Any, packed: bytes, at_most: int) -> bytes:  # noqa: ANN401 - of zlib or lzma
    try:
        found: bytes = decompressor.decompress(packed, at_most + 1)
    except (zlib.error, lzma.LZMAError) as error:
        raise Damaged(f"it was changed: a part cannot be decompressed ({error})") from error
    if len(found) <= at_most and (not decompressor.eof or decompressor.unused_data):
        raise Damaged("it was changed: a part does not end where it should")
    return found


# -- from sections to files --------------------------------------------------------------------------------------------


def _joined(sections: Sections) -> dict[str, bytes]:
    """Return the files: their pieces between the bytes of the rest."""
    size = sum(file.size for file in sections.files)
    rest = inflated(sections.rest, size)
    decoder = Decoder(sections, size)
    files, at, done = {}, 0, 0
    for file, pieces in zip(sections.files, decoder.pieces):
        parts: list[bytes] = []
        found = 0
        for piece in pieces:
            found += piece.skip + piece.size
            if found > file.size or at + piece.skip > len(rest):
                raise Damaged(f"it was changed: its pieces are longer than {file.name}")
            parts += [rest[at : at + piece.skip], decoder.decoded(piece)]
            at, done = at + piece.skip, done + 1
        left = file.size - found
        if at + left > len(rest):
            raise Damaged(f"it was changed: its rest is shorter than that of {file.name}")
        files[file.name] = b"".join([*parts, rest[at : at + left]])
        at += left
    if at != len(rest):
        raise Damaged("it was changed: its rest is longer than that of its files")
    decoder.check_end()
    return files


class Decoder:
    """Decodes the pieces of a packed file, in their order."""

    def __init__(self, sections: Sections, size: int) -> None:
        self._plan = Numbers(inflated(sections.plan, size + BLOCK), "plan")
        counts = [self._plan.next(len(self._plan.content)) for _ in sections.files]
        columns = [[self._plan.next() for _ in range(sum(counts))] for _ in range(4)]
        rows = [Piece(*row) for row in zip(*columns)]
        for row in rows:
            if row.kind >= len(TYPES) or row.size > size or not row.elements:
                raise Damaged("it was changed: its plan has a piece of an unknown type, or a longer one than its files")
        starts = [sum(counts[:place]) for place in range(len(counts))]
        self.pieces = [rows[start : start + count] for start, count in zip(starts, counts)]
        self._bits, self._lanes = Bits(sections.payload), Lanes(sections.lanes)
        self._done: list[bytes] = []

    def decoded(self, piece: Piece) -> bytes:
        """Return the bytes of the next piece. Raises Damaged."""
        if piece.code >= SPLIT:
            found = self._split(piece)
        elif piece.code == RAW:
            found = self._bits.take(piece.size)
        elif piece.code in {DEFLATE, LZMA}:
            packed = self._bits.take(self._plan.next(piece.size))
            found = inflated(packed, piece.size)
        else:
            found = self._of_another(piece)
        if len(found) != piece.size:
            raise Damaged(f"it was changed: a piece has {len(found):,} bytes, expected {piece.size:,}")
        self._done.append(found)
        return found

    def check_end(self) -> None:
        """Raise Damaged where the sections hold more than the pieces took."""
        self._plan.check_end()
        self._bits.check_end()
        self._lanes.check_end()

    def _of_another(self, piece: Piece) -> bytes:
        """Return a piece that is an earlier one again, or an earlier one times a number, in single precision."""
        place = self._plan.next()
        if place >= len(self._done):
            raise Damaged("it was changed: a piece refers to one that does not come before it")
        other = self._done[place]
        if piece.code == COPY:
            return other
        if len(other) % 4:
            raise Damaged("it was changed: a piece refers to one of another type")
        factor = np.frombuffer(self._bits.take(4), "<f4")
        with np.errstate(all="ignore"):
            return bytes((np.frombuffer(other, "<f4") * factor).astype("<f4").tobytes())

    def _split(self, piece: Piece) -> bytes:
        """Return a piece whose most frequent value is stored by its places, and the others as symbols."""
        layout = piece.code - SPLIT
        if layout == DENSE:
            return self._as_bytes(piece, self._values(piece, piece.elements))
        zero = self._plan.next((1 << piece.bits) - 1)
        found = np.full(piece.elements, zero, f"<u{piece.bits // 8}")
        if layout == RELATIVE:
            self._relative(piece, found)
        else:
            self._flagged(piece, found, layout)
        return self._as_bytes(piece, found)

    def _flagged(self, piece: Piece, found: Integers, layout: int) -> None:
        """Fill in the values whose places are stored as one flag for each element."""
        if layout == BITMAP:
            flags = self._bits.flags(piece.elements)
        elif layout in {FLAGS, FLAGS_IN_CONTEXT}:
            flags = self._lanes.flags(piece.elements, in_context=layout == FLAGS_IN_CONTEXT)
        else:
            raise Damaged("it was changed: its plan has a piece of an unknown code")
        places = np.flatnonzero(flags)
        if places.size:
            found[places] = self._values(piece, places.size)

    def _relative(self, piece: Piece, found: Integers) -> None:
        """Fill in the values whose places are stored as zeros in between; a symbol of 0 is a filler and no value."""
        entries, bits, code = self._plan.next(piece.elements), self._plan.next(12), self._plan.next(RANGE)
        if not entries:
            return
        gaps = self.symbols(entries, 1 << bits, code)
        places = np.cumsum(gaps.astype(np.int64) + 1) - 1
        if places[-1] >= piece.elements:
            raise Damaged("it was changed: a gap leads out of its piece")
        mapping = self._mapping(piece)
        stored = self.symbols(entries, mapping.size + 1, mapping.code)
        real = stored > 0
        found[places[real]] = mapping.patterns(stored[real].astype(np.int64) - 1, self._bits)

    def _values(self, piece: Piece, count: int) -> Integers:
        mapping = self._mapping(piece)
        return mapping.patterns(self.symbols(count, mapping.size, mapping.code), self._bits)

    def _mapping(self, piece: Piece) -> Mapping:
        """Read what the symbols of a piece stand for: consecutive numbers, or the entries of a codebook."""
        code, low = self._plan.next(RANGE), self._plan.next(piece.bits)
        size, width = self._plan.next(SYMBOLS_AT_MOST), self._plan.next(64)
        if not size:
            raise Damaged("it was changed: its plan has a piece without symbols")
        if not width:
            return Mapping(piece, code, low, size, np.uint64(self._plan.next((1 << piece.bits) - 1)))
        first = self._bits.fields(1, piece.bits)
        steps = self._bits.fields(size - 1, width)
        return Mapping(piece, code, low, size, np.cumsum(np.concatenate([first, steps]), dtype=np.uint64))

    def symbols(self, count: int, size: int, code: int) -> Integers:
        """Return symbols below `size`, in whichever code."""
        if size == 1:
            return np.zeros(count, np.uint16)
        found: Integers
        if code == FIXED:
            found = self._bits.fields(count, (size - 1).bit_length())
        elif code == HUFFMAN:
            found = self._bits.huffman(count, size, self._plan.next())
        else:
            found = self._lanes.symbols(count, size)
        if found.max() >= size:
            raise Damaged("it was changed: it has a symbol that does not exist")
        return found

    def _as_bytes(self, piece: Piece, patterns: Integers) -> bytes:
        return patterns.astype(f"<u{piece.bits // 8}").tobytes()


class Mapping(NamedTuple):
    """What symbols stand for: the upper bits of an element. The `low` ones follow as they are.

    `upper` is the upper part that symbol 0 stands for, or an array with that of each symbol. Signed integers are
    stored with their sign bit turned, so that their order is that of unsigned ones.
    """

    piece: Piece
    code: int
    low: int
    size: int
    upper: Any

    def patterns(self, symbols: Integers, bits: Bits) -> Integers:
        """Return the elements as unsigned integers."""
        upper = self.upper[symbols] if np.ndim(self.upper) else self.upper + symbols.astype(np.uint64)
        low = np.uint64(self.low)
        found = upper << low if self.low < 64 else np.zeros(len(symbols), np.uint64)  # noqa: PLR2004 - no bit is left
        if self.low:
            found = found | bits.fields(len(symbols), self.low)
        if self.piece.kind >= SIGNED:
            found = found ^ np.uint64(1 << (self.piece.bits - 1))
        return found


# -- bits --------------------------------------------------------------------------------------------------------------


class Bits:
    """Reads a string of bits from its start, the highest bit of each byte first."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = np.frombuffer(content, np.uint8), 0

    def _next(self, count: int) -> int:
        """Go on by so many bits; return where they start."""
        if count > 8 * len(self._content) - self._at:
            raise Damaged("it was changed: its payload ends too early")
        self._at += count
        return self._at - count

    def _unpacked(self, start: int, count: int) -> NDArray[np.uint8]:
        first = start // 8
        found = np.unpackbits(self._content[first : (start + count + 7) // 8])
        return found[start - 8 * first : start - 8 * first + count]

    def take(self, count: int) -> bytes:
        """Return whole bytes, from the next byte on."""
        self._at = -(-self._at // 8) * 8
        start = self._next(8 * count) // 8
        return self._content[start : start + count].tobytes()

    def flags(self, count: int) -> NDArray[np.uint8]:
        """Return single bits."""
        return self._unpacked(self._next(count), count)

    def fields(self, count: int, width: int) -> NDArray[np.uint64]:
        """Return numbers of `width` bits, 1 to 64."""
        start = self._next(count * width)
        found = np.empty(count, np.uint64)
        for done in range(0, count, BLOCK):
            block = min(BLOCK, count - done)
            wide = np.zeros((block, 64), np.uint8)
            wide[:, 64 - width :] = self._unpacked(start + done * width, block * width).reshape(block, width)
            found[done : done + block] = np.packbits(wide, axis=1).view(">u8")[:, 0]
        return found

    def huffman(self, count: int, size: int, length: int) -> NDArray[np.uint16]:
        """Return symbols of a canonical Huffman code: one length for each symbol, then `length` bits."""
        lengths = self.fields(size, LENGTH_BITS).astype(np.int64)
        symbols, jumps = code_table(lengths)
        start, found = self._next(length), []
        at = done = 0
        while at < length:
            block = self._unpacked(start + at, min(length - at, 16 * BLOCK))
            windows, is_last = _windows(block), at + len(block) == length
            places = _chain(jumps[windows], len(block) if is_last else len(block) - LONGEST_CODE)
            at += places[-1]
            done += len(places) - 1
            if done > count:
                break
            found.append(symbols[windows[places[:-1]]])
        if at != length or done != count:
            raise Damaged("it was changed: a Huffman code does not end where it should")
        return np.concatenate(found)

    def check_end(self) -> None:
        """Raise Damaged where a whole byte is left."""
        if -(-self._at // 8) != len(self._content):
            raise Damaged("it was changed: its payload is too long")


def canonical_codes(lengths: Integers) -> Integers:
    """Return the code words of a canonical Huffman code as numbers of LONGEST_CODE bits, left-aligned.

    Words are given out by length, then by symbol. A length of 0 means that a symbol does not occur.
    Source: D. A. Huffman, 1952; canonical form as in RFC 1951, 3.2.2.
    """
    spans = np.where(lengths > 0, 1 << (LONGEST_CODE - lengths), 0)
    order = np.lexsort((np.arange(len(lengths)), lengths))
    codes = np.zeros(len(lengths), np.int64)
    codes[order] = np.cumsum(spans[order]) - spans[order]
    return codes


def code_table(lengths: Integers) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Return the symbol that each string of LONGEST_CODE bits begins with, and the length of its code word."""
    used = np.flatnonzero(lengths)
    spans = 1 << (LONGEST_CODE - lengths[used])
    if not used.size or spans.sum() > 1 << LONGEST_CODE:
        raise Damaged("it was changed: the lengths of a Huffman code do not fit together")
    order = used[np.argsort(lengths[used], kind="stable")]
    symbols = np.repeat(order, 1 << (LONGEST_CODE - lengths[order])).astype(np.uint16)
    missing = (1 << LONGEST_CODE) - len(symbols)
    jumps = np.concatenate([lengths[symbols], np.full(missing, 1 << 40)])  # leads behind any end
    return np.concatenate([symbols, np.zeros(missing, np.uint16)]), jumps


def _windows(bits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the LONGEST_CODE bits from each place on as a number; behind the end there are zeros."""
    padded = np.concatenate([bits, np.zeros(LONGEST_CODE, np.uint8)])
    found = np.zeros(len(bits), np.int64)
    for place in range(LONGEST_CODE):
        found = (found << 1) | padded[place : place + len(bits)]
    return found


def _chain(jumps: NDArray[np.int64], end: int) -> list[int]:
    """Return the places that are reached from 0 by jumps, up to the first at or behind the end."""
    following = jumps.tolist()
    places, at = [0], 0
    while at < end:
        at += following[at]
        places.append(at)
    return places


# -- range coding ------------------------------------------------------------------------------------------------------


def step_counts(count: int, lanes: int) -> tuple[int, int]:
    """Return how many steps decode so many symbols, one in each lane, and how many lanes are needed for that."""
    steps = -(-count // lanes)
    return steps, -(-count // steps)


def generations(count: int, lanes: int) -> Iterator[tuple[int, int]]:
    """Yield the steps, first and behind the last, between two updates of the frequencies: a fourth of what was seen."""
    steps, used = step_counts(count, lanes)
    start = 0
    while start < steps:
        end = min(steps, start + max(1, (start * used // 4 + 16) // used))
        yield start, end
        start = end


def frequencies(weights: Integers) -> NDArray[np.int64]:
    """Return frequencies of symbols, 1 or more, that add up to TOTAL in each row. Only integers are computed with.

    Args:
        weights: [contexts, symbols], twice the number of times that each symbol was seen, and one: the estimator of
            Krichevsky and Trofimov (1981).
    """
    size = weights.shape[1]
    found: NDArray[np.int64] = 1 + weights * (TOTAL - size) // weights.sum(axis=1, keepdims=True)
    found[np.arange(len(found)), found.argmax(axis=1)] += TOTAL - found.sum(axis=1)
    return found


class Lanes:
    """Decodes what the lanes of a range coder hold; all lanes take their words from one string.

    A stream of n symbols is cut into as many parts as there are lanes. In a step each lane decodes the next symbol of
    its part, with frequencies of what all lanes have seen in earlier generations.
    Source: J. Duda, "Asymmetric numeral systems", arXiv 1311.2540; F. Giesen, "Interleaved entropy coders", 1402.3392.
    """

    def __init__(self, content: bytes) -> None:
        lanes = 1 << content[0] if content and content[0] < LANES_AT_MOST.bit_length() else 0
        end = 1 + STATE_BYTES * lanes
        if content and (not lanes or end > len(content) or (len(content) - end) % 2):
            raise Damaged("it was changed: its lanes are incomplete")
        states = np.frombuffer(content, np.uint8, end - 1, 1 if content else 0).reshape(lanes, STATE_BYTES)
        self._states = (states.astype(np.int64) << (8 * np.arange(STATE_BYTES))).sum(axis=1)
        self._words = np.frombuffer(content[end:], "<u2").astype(np.int64)
        self._count, self._at = lanes, 0

    def symbols(self, count: int, size: int) -> NDArray[np.uint16]:
        """Return symbols below `size` (2 or more), without context."""
        steps, used = self._sizes(count)
        found = np.zeros((steps, used), np.uint16)
        weights = np.ones((1, size), np.int64)
        for start, end in generations(count, self._count):
            each = frequencies(weights)[0]
            ends = np.cumsum(each)
            bases = ends - each
            for step in range(start, end):
                active = -(-(count - step) // steps)
                slots = self._states[:active] & (TOTAL - 1)
                symbols = ends.searchsorted(slots, side="right")
                found[step, :active] = symbols
                self._advance(active, slots, each[symbols], bases[symbols])
            weights[0] += 2 * np.bincount(_coded(found, start, end, count), minlength=size)
        return found.T.ravel()[:count]

    def flags(self, count: int, *, in_context: bool) -> NDArray[np.uint8]:
        """Return flags, 0 or 1; in context their frequencies depend on the two flags before."""
        steps, used = self._sizes(count)
        found = np.zeros((2 + steps, used), np.uint8)
        weights = np.ones((CONTEXTS, 2), np.int64)
        for start, end in generations(count, self._count):
            each = frequencies(weights)
            splits, ones = each[:, 0].copy(), each[:, 1].copy()
            for step in range(start, end):
                active = -(-(count - step) // steps)
                context = 2 * found[step + 1, :active] + found[step, :active] if in_context else 0
                split = splits[context]
                slots = self._states[:active] & (TOTAL - 1)
                is_set = slots >= split
                found[2 + step, :active] = is_set
                self._advance(active, slots, np.where(is_set, ones[context], split), np.where(is_set, split, 0))
            weights += 2 * _seen_flags(found, start, end, count, in_context=in_context)
        return found[2:].T.ravel()[:count]

    def _sizes(self, count: int) -> tuple[int, int]:
        if not self._count:
            raise Damaged("it was changed: its lanes are missing")
        return step_counts(count, self._count)

    def _advance(self, active: int, slots: Integers, each: Integers, bases: Integers) -> None:
        """Take the symbols that were read out of the states, and fill up those that became small."""
        states = each * (self._states[:active] >> SCALE_BITS) + slots - bases
        small = states < LEAST
        needed = int(np.count_nonzero(small))
        if needed:
            words = self._words[self._at : self._at + needed]
            if len(words) < needed:
                raise Damaged("it was changed: its lanes end too early")
            states[small] = (states[small] << WORD_BITS) | words
            self._at += needed
        self._states[:active] = states

    def check_end(self) -> None:
        """Raise Damaged where words are left, or the lanes are not as before the first symbol was written."""
        if self._at != len(self._words) or (self._states != LEAST).any():
            raise Damaged("it was changed: its lanes do not end where they should")


def _coded(found: Integers, start: int, end: int, count: int) -> Integers:
    """Return the symbols of some steps [steps, lanes], without the places behind the end of the last lane."""
    steps, used = len(found), found.shape[1]
    seen = found[start:end]
    behind = max(0, min(end, steps) - max(start, count - (used - 1) * steps))
    return np.concatenate([seen[: len(seen) - behind].ravel(), seen[len(seen) - behind :, :-1].ravel()])


def _seen_flags(found: Integers, start: int, end: int, count: int, *, in_context: bool) -> NDArray[np.int64]:
    """Return how often each flag was seen in each context in some steps; `found` begins with two steps of zeros."""
    coded = 2 * (2 * found[1:-1] + found[:-2]) * in_context + found[2:]
    return np.bincount(_coded(coded, start, end, count), minlength=2 * CONTEXTS).reshape(CONTEXTS, 2)


# -- the command -------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Unpack the file that is named. Returns 2 where that cannot be done."""
    parser = argparse.ArgumentParser(description="Give back the files that lie in a packed one.")
    parser.add_argument("packed", metavar="FILE", type=Path)
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="default: the folder of the packed file")
    given = parser.parse_args(arguments)
    try:
        files = unpack_files(given.packed.read_bytes())
        for place in write_files(files, given.out or given.packed.parent):
            print(f"{place}: {len(files[place.name]):,} bytes")
    except (Damaged, OSError) as error:
        print(f"unpack.py: {given.packed}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
