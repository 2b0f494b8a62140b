"""What packing an exported network came to, in bytes: the JSON of `secateur pack --json`."""

from __future__ import annotations

from functools import partial
from typing import Literal

from pydantic import Field

from pipeline.core.artifact import FrozenModel
from pipeline.results.comparison import result_schema

SCHEMA_VERSION: Literal[1] = 1


class TensorSize(FrozenModel):
    """One tensor: the code that it is in, its bytes before and after, and those of every code that was tried.

    `bound` is the zeroth-order entropy of its elements, without any table. `nonzero` is the share of its elements that
    are not its most frequent value.
    """

    name: str
    code: str
    raw: int
    packed: float
    bound: float
    nonzero: float
    tried: dict[str, float]


class PackedSizes(FrozenModel):
    """What a packed file takes, in bytes.

    `zlib` is what the files take in zlib at level 9, `parts` what the packed file consists of, and `in_memory` what its
    tensors take where a runtime has loaded them: runtimes make all of them dense. `unpack_seconds` is the time that
    unpacking took here.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    source: str
    out: str
    files: dict[str, int] = Field(description="Bytes of the files in it.")
    raw: int
    zlib: int
    packed: int
    parts: dict[str, int]
    bound: float = Field(description="Zeroth-order entropy of all tensors.")
    tensors_raw: int
    tensors_packed: float
    in_memory: int
    unpack_seconds: float
    tensors: tuple[TensorSize, ...]


#: The function that returns the JSON Schema (2020-12) which `secateur schema pack` prints.
schema = partial(result_schema, PackedSizes)
