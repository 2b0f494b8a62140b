"""A tensor through every code that it may be stored in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compress.coding import unpack
from pipeline.compress.coding.candidates import Candidate, Output, piece_candidates
from pipeline.compress.coding.ranges import lane_bytes
from pipeline.compress.coding.writing import deflated, varint_bytes

if TYPE_CHECKING:
    import numpy as np

LANES = 16
#: Types of elements by numpy's name: their number in the plan.
KINDS = {
    "uint8": 0,
    "uint16": 1,
    "float16": 1,
    "uint32": 2,
    "float32": 2,
    "uint64": 3,
    "float64": 3,
    "int8": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
}


def all_candidates(tensor: np.ndarray) -> list[Candidate]:
    """Return the ways to store a tensor."""
    is_float = tensor.dtype.kind == "f"
    return piece_candidates(tensor.tobytes(), KINDS[tensor.dtype.name], is_float=is_float, lanes=LANES)


def stored(tensor: np.ndarray, candidate: Candidate) -> tuple[bytes, int]:
    """Return the bytes of a tensor that was written by a candidate and read back, and the bits that it took.

    These are those of payload and lanes, without the lanes' states.
    """
    out = Output(LANES)
    candidate.write(out)
    content = tensor.tobytes()
    row = (0, KINDS[tensor.dtype.name], tensor.size, candidate.code)
    file = unpack.PackedFile("x", len(content), b"")
    payload, lanes = out.bits.content(), lane_bytes(out.streams, LANES)
    sections = unpack.Sections([file], deflated(b""), deflated(varint_bytes(1, *row, *out.plan)), payload, lanes)
    states = 1 + LANES * unpack.STATE_BYTES if lanes else 0
    return unpack._joined(sections)["x"], 8 * (len(payload) + len(lanes) - states)
