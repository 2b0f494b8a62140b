"""Where the tensors of an exported file lie in its bytes: ONNX by its protobuf fields, OpenVINO's IR by its XML.

What is not found, or found to be something else than it is, costs bytes and no more: a packed file gives back the
bytes, whatever they mean.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.compress.coding.unpack import TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: Bytes of a tensor below which its description would be longer than what coding saves.
SMALLEST = 16
#: Fields of ONNX's messages that lead to tensors: message -> field -> message.
_LEADS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_DEEPEST = 50
#: Fields of a tensor.
_DATA_TYPE, _FLOATS, _NAME, _RAW, _DOUBLES, _EXTERNAL, _LOCATION = 2, 4, 8, 9, 10, 13, 14
_BYTES = 2
#: Bytes of the fixed fields of protobuf, by their kind.
_FIXED = {1: 8, 5: 4}
#: Types of elements by name in an IR and by number in ONNX: their number in `unpack.TYPES`, whether they are floats.
_IR = {
    "u8": (0, False),
    "boolean": (0, False),
    "f8e4m3": (0, False),
    "f8e5m2": (0, False),
    "u16": (1, False),
    "f16": (1, True),
    "bf16": (1, True),
    "u32": (2, False),
    "f32": (2, True),
    "u64": (3, False),
    "f64": (3, True),
    "i8": (4, False),
    "i16": (5, False),
    "i32": (6, False),
    "i64": (7, False),
}
_ONNX = {
    1: "f32",
    2: "u8",
    3: "i8",
    4: "u16",
    5: "i16",
    6: "i32",
    7: "i64",
    9: "boolean",
    10: "f16",
    11: "f64",
    12: "u32",
    13: "u64",
    16: "bf16",
}
_DATA = re.compile(rb"<data\b[^<>]*>")
_KEY = re.compile(rb'\b(element_type|offset|size)="([A-Za-z0-9_]{1,20})"')


class TensorPlace(NamedTuple):
    """Where a tensor lies in a file: its first byte and bytes, its name, and the type of its elements.

    `kind` is a number in `unpack.TYPES`.
    """

    start: int
    size: int
    name: str
    kind: int
    is_float: bool

    @property
    def end(self) -> int:
        """The byte behind it."""
        return self.start + self.size


class OutsideData(NamedTuple):
    """A tensor of an ONNX file whose elements are in another file, `location`; a size of -1 reaches to its end."""

    location: str
    offset: int
    size: int
    place: TensorPlace


class NotReadableError(ValueError):
    """The bytes are not what the name of the file says; the text says what was found."""


def usable_places(places: Iterable[TensorPlace], size: int) -> list[TensorPlace]:
    """Return in order those of whole elements, inside of a file of that size, large enough, not over one another."""
    found: list[TensorPlace] = []
    end = 0
    for place in sorted(places, key=lambda each: (each.start, -each.size)):
        whole = place.size % (TYPES[place.kind] // 8) == 0
        if whole and place.size >= SMALLEST and end <= place.start and place.end <= size:
            found.append(place)
            end = place.end
    return found


# -- OpenVINO ----------------------------------------------------------------------------------------------------------


def ir_end(xml: bytes) -> int:
    """Return where the last constant of an IR ends in its .bin file, whatever its type."""
    found = (dict(_KEY.findall(match[0])) for match in _DATA.finditer(xml))
    spans = ((keys.get(b"offset", b""), keys.get(b"size", b"")) for keys in found)
    return max((int(start) + int(size) for start, size in spans if start.isdigit() and size.isdigit()), default=0)


def ir_places(xml: bytes) -> list[TensorPlace]:
    """Return where the constants of an IR lie in its .bin file."""
    found = []
    for match in _DATA.finditer(xml):
        keys = dict(_KEY.findall(match[0]))
        kind = _IR.get(keys.get(b"element_type", b"").decode())
        if kind is not None and keys.get(b"offset", b"").isdigit() and keys.get(b"size", b"").isdigit():
            start, size = int(keys[b"offset"]), int(keys[b"size"])
            found.append(TensorPlace(start, size, f"constant at byte {start}", *kind))
    return found


# -- ONNX --------------------------------------------------------------------------------------------------------------


def onnx_places(content: bytes) -> tuple[list[TensorPlace], list[OutsideData]]:
    """Return where the tensors of an ONNX file lie in it, and those whose elements are in another file.

    Raises:
        NotReadableError: it is not protobuf as in an ONNX file.
    """
    inside: list[TensorPlace] = []
    outside: list[OutsideData] = []
    try:
        fields = list(_fields(memoryview(content), 0, len(content)))
        if not any(number == 7 for number, *_ in fields):  # noqa: PLR2004 - the field `graph`
            raise NotReadableError("it has no graph")
        for start, end in _tensors(memoryview(content), (0, len(content)), "model", 0):
            _add_tensor(memoryview(content), (start, end), inside, outside)
    except IndexError as error:
        raise NotReadableError("it ends within a field") from error
    return inside, outside


def _tensors(content: memoryview, span: tuple[int, int], kind: str, depth: int) -> Iterator[tuple[int, int]]:
    """Yield where the messages of tensors start and end."""
    if depth > _DEEPEST:
        raise NotReadableError("it is nested too deeply")
    if kind == "tensor":
        yield span
        return
    for number, wire, start, end in _fields(content, *span):
        inner = _LEADS[kind].get(number)
        if inner and wire == _BYTES:
            yield from _tensors(content, (start, end), inner, depth + 1)


def _add_tensor(
    content: memoryview, span: tuple[int, int], inside: list[TensorPlace], outside: list[OutsideData]
) -> None:
    fields = list(_fields(content, *span))
    numbers = {number: start for number, wire, start, _ in fields if wire == 0}
    kind = _IR.get(_ONNX.get(_varint(content, numbers[_DATA_TYPE])[0] if _DATA_TYPE in numbers else 0, ""), (0, False))
    name = next((bytes(content[start:end]) for number, _, start, end in fields if number == _NAME), b"")
    told = name.decode("utf-8", "replace")
    for number, wire, start, end in fields:
        if wire == _BYTES and number in {_RAW, _FLOATS, _DOUBLES}:
            own = {_RAW: kind, _FLOATS: _IR["f32"], _DOUBLES: _IR["f64"]}[number]
            inside.append(TensorPlace(start, end - start, told, *own))
    if _LOCATION in numbers and _varint(content, numbers[_LOCATION])[0] == 1:
        keys = dict(
            _entry(content, (start, end))
            for number, wire, start, end in fields
            if number == _EXTERNAL and wire == _BYTES
        )
        outside.append(_outside(keys, told, kind))


def _entry(content: memoryview, span: tuple[int, int]) -> tuple[str, str]:
    """Return key and value of a StringStringEntryProto."""
    found = {
        number: bytes(content[start:end]).decode("utf-8", "replace")
        for number, _, start, end in _fields(content, *span)
    }
    return found.get(1, ""), found.get(2, "")


def _outside(keys: Mapping[str, str], name: str, kind: tuple[int, bool]) -> OutsideData:
    try:
        offset, size = int(keys.get("offset") or 0), int(keys.get("length") or -1)
        location = keys["location"]
    except (KeyError, ValueError) as error:
        raise NotReadableError(f"tensor {name!a} is in another file, but it does not say where") from error
    return OutsideData(location, offset, size, TensorPlace(offset, max(size, 0), name, *kind))


def _fields(content: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, kind (wire type), start and end of the fields of a protobuf message."""
    while at < end:
        tag, at = _varint(content, at)
        wire = tag & 7
        if not tag >> 3:
            raise NotReadableError(f"it has a field with the number 0 at byte {at - 1}")
        if wire == 0:
            start = at
            _, at = _varint(content, at)
        elif wire == _BYTES:
            length, start = _varint(content, at)
            at = start + length
        elif wire in _FIXED:
            start, at = at, at + _FIXED[wire]
        else:
            raise NotReadableError(f"it has a field of the unknown kind {wire} at byte {at}")
        if at > end:
            raise NotReadableError(f"it ends within a field at byte {start}")
        yield tag >> 3, wire, start, at


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """Return a number and where it ends."""
    value = 0
    for place in range(10):
        byte = content[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:  # noqa: PLR2004 - no byte follows
            return value, at + place + 1
    raise NotReadableError(f"it has a number without an end at byte {at}")


def product_factor(values: bytes, other: bytes) -> bytes | None:
    """Return the float32 with which `other` times it gives `values` bit by bit, or None: scales of biases are that.

    In QDQ graphs the scale of a bias is the scale of the input times those of the weights.
    """
    wanted, given = np.frombuffer(values, "<f4"), np.frombuffer(other, "<f4")
    if len(wanted) != len(given) or not given.all() or not (np.isfinite(wanted).all() and np.isfinite(given).all()):
        return None
    place = int(np.abs(given).argmax())
    with np.errstate(all="ignore"):
        factor = np.float32(np.float64(wanted[place]) / np.float64(given[place]))
        for each in (factor, np.nextafter(factor, np.float32(0)), np.nextafter(factor, np.float32(np.inf))):
            if ((given * each).astype("<f4").view("<u4") == wanted.view("<u4")).all():
                return bytes(np.float32(each).astype("<f4").tobytes())
    return None
