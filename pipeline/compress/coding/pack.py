"""Exported files as one packed file, from which `unpack.py` gives them back byte for byte.

Each tensor is stored in the code that is smallest for it, and what is left as a whole by the standard library's
compression. What was packed is unpacked again and compared before it is returned.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.compress.coding import unpack
from pipeline.compress.coding.candidates import Candidate, Output, piece_candidates
from pipeline.compress.coding.names import CODE_NAMES
from pipeline.compress.coding.pieces import TensorPlace, product_factor, usable_places
from pipeline.compress.coding.ranges import entropy_bits, lane_bytes, lanes_for
from pipeline.compress.coding.writing import deflated, varint_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence


@dataclass(frozen=True)
class PackedTensor:
    """What became of a tensor: the code, its bytes before, those of each code that was tried, and its entropy bound.

    `bound` is the zeroth-order entropy of its elements in bytes, without any table: no code that looks at single
    elements alone is shorter. `nonzero` is the share of its elements that are not the most frequent value.
    """

    name: str
    code: str
    raw: int
    packed: float
    bound: float
    nonzero: float
    tried: Mapping[str, float] = field(default_factory=dict)


class PackedContent(NamedTuple):
    """A packed file: its bytes, its tensors, and what its parts take in bytes, by name."""

    content: bytes
    tensors: Sequence[PackedTensor]
    parts: Mapping[str, int]


class _Section(NamedTuple):
    """The pieces of a file as the plan has them, and what lies between them."""

    rows: list[tuple[int, int, int, int]]
    rest: bytes


def pack_files(
    files: Mapping[str, bytes],
    places: Mapping[str, Sequence[TensorPlace]],
    *,
    codes: Collection[str] = CODE_NAMES,
    told: Callable[[int, int], None] = lambda _done, _all: None,
) -> PackedContent:
    """Return files packed into one.

    Args:
        files: content by name.
        places: of tensors in some of the files; those that cannot be are left out.
        codes: names of the codes that may be used, beside raw and general ones.
        told: called with the number of tensors that are done, and of all.

    Raises:
        ValueError: a name cannot stand in a packed file, or there is more than `unpack.py` accepts.
    """
    _check_files(files)
    kept = {name: usable_places(places.get(name, ()), len(content)) for name, content in files.items()}
    amount = sum(place.size * 8 // unpack.TYPES[place.kind] for each in kept.values() for place in each)
    packer = _Packer(Output(lanes_for(amount)), codes, told, sum(map(len, kept.values())))
    sections = [packer.packed(content, kept[name]) for name, content in files.items()]
    plan = varint_bytes(*(len(section.rows) for section in sections))
    rows = [row for section in sections for row in section.rows]
    plan += b"".join(varint_bytes(*column) for column in zip(*rows, strict=True)) + varint_bytes(*packer.out.plan)
    parts = (
        deflated(b"".join(section.rest for section in sections)),
        deflated(plan),
        packer.out.bits.content(),
        lane_bytes(packer.out.streams, packer.out.lanes),
    )
    content = _with_header(files, parts)
    if len(content) * unpack.LARGER_AT_MOST + unpack.SMALL < sum(map(len, files.values())):
        raise ValueError(f"the files are more than {unpack.LARGER_AT_MOST:,} times as large as what is in them")
    if unpack.unpack_files(content) != dict(files):
        raise AssertionError("what was packed is not what comes out: this is an error of the program")
    return PackedContent(content, packer.tensors, _part_sizes(content, parts, packer.out))


def _check_files(files: Mapping[str, bytes]) -> None:
    for name in files:
        if len(name.encode()) > unpack.LONGEST_NAME:
            raise ValueError(f"the name {name!a} is longer than {unpack.LONGEST_NAME} bytes")
        try:
            unpack.check_name(name)
        except unpack.Damaged as error:
            raise ValueError(str(error)) from error
    size = sum(map(len, files.values()))
    if size > unpack.BYTES_AT_MOST or len(files) > unpack.FILES_AT_MOST:
        raise ValueError(f"found {len(files)} files of {size:,} bytes, allowed: {unpack.BYTES_AT_MOST:,} bytes")


def _with_header(files: Mapping[str, bytes], parts: Sequence[bytes]) -> bytes:
    body = varint_bytes(len(files))
    for name, content in files.items():
        encoded = name.encode()
        body += varint_bytes(len(encoded)) + encoded + varint_bytes(len(content)) + hashlib.sha256(content).digest()
    body += varint_bytes(*map(len, parts)) + b"".join(parts)
    return unpack.MAGIC + bytes([unpack.FORMAT]) + zlib.crc32(body).to_bytes(unpack.CRC_BYTES, "little") + body


def _part_sizes(content: bytes, parts: Sequence[bytes], out: Output) -> dict[str, int]:
    """Return what a packed file consists of, in bytes; together they are all of it."""
    rest, plan, payload, lanes = map(len, parts)
    codebooks, lengths = round(out.codebook_bits / 8), round(out.length_bits / 8)
    return {
        "codes": payload + lanes - codebooks - lengths,
        "codebooks": codebooks,
        "code lengths": lengths,
        "descriptions of tensors": plan,
        "graph and small tensors": rest,
        "header": len(content) - rest - plan - payload - lanes,
    }


class _Packer:
    """Packs one file after another into one output."""

    def __init__(self, out: Output, codes: Collection[str], told: Callable[[int, int], None], amount: int) -> None:
        self.out, self.tensors = out, list[PackedTensor]()
        self._codes, self._told, self._amount = codes, told, amount
        self._known: dict[bytes, int] = {}
        self._floats: dict[int, list[tuple[int, bytes]]] = {}

    def packed(self, content: bytes, places: Sequence[TensorPlace]) -> _Section:
        """Write the tensors of a file; return their rows of the plan, and the bytes between them."""
        rows, rest, end = [], [], 0
        for place in places:
            self._told(len(self.tensors), self._amount)
            piece = content[place.start : place.end]
            chosen = self._write(piece, place)
            rows.append((place.start - end, place.kind, place.size * 8 // unpack.TYPES[place.kind], chosen.code))
            rest.append(content[end : place.start])
            end = place.end
        return _Section(rows, b"".join([*rest, content[end:]]))

    def _write(self, piece: bytes, place: TensorPlace) -> Candidate:
        found = self._again(piece, place) or piece_candidates(
            piece, place.kind, is_float=place.is_float, lanes=self.out.lanes, codes=self._codes
        )
        chosen = min(found, key=lambda each: each.bits)
        chosen.write(self.out)
        counts = np.unique(np.frombuffer(piece, f"<u{unpack.TYPES[place.kind] // 8}"), return_counts=True)[1]
        tried: dict[str, float] = {}
        for each in found:
            tried[each.name] = min(tried.get(each.name, each.bits / 8), each.bits / 8)
        self.tensors.append(
            PackedTensor(
                name=place.name,
                code=chosen.name,
                raw=len(piece),
                packed=chosen.bits / 8,
                bound=entropy_bits(counts) / 8,
                nonzero=1 - float(counts.max() / counts.sum()),
                tried=tried,
            )
        )
        self._remember(piece, place)
        return chosen

    def _remember(self, piece: bytes, place: TensorPlace) -> None:
        number = len(self.tensors) - 1
        self._known.setdefault(piece, number)
        if place.is_float and unpack.TYPES[place.kind] == 32:  # noqa: PLR2004 - single precision
            self._floats.setdefault(len(piece), []).append((number, piece))

    def _again(self, piece: bytes, place: TensorPlace) -> list[Candidate]:
        """Return the candidate of a tensor that is an earlier one again, or one in float32 times a number."""
        if piece in self._known:
            number = self._known[piece]
            bits = 8.0 * len(varint_bytes(number))
            return [Candidate(unpack.COPY, "general", bits, lambda out: out.plan.append(number))]
        if not place.is_float or unpack.TYPES[place.kind] != 32:  # noqa: PLR2004 - single precision
            return []
        for number, other in self._floats.get(len(piece), []):
            factor = product_factor(piece, other)
            if factor is not None:
                return [Candidate(unpack.PRODUCT, "general", 8.0 * 6, _scaled(number, factor))]
        return []


def _scaled(number: int, factor: bytes) -> Callable[[Output], None]:
    def write(out: Output) -> None:
        out.plan.append(number)
        out.bits.whole(factor)

    return write
