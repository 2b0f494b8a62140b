"""What a device reaches at best with one runtime: operations, bytes and calls per second, as probes found them."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field

from pipeline.core.artifact import FrozenModel
from pipeline.core.stage import Runtime

SCHEMA_VERSION: Literal[1] = 1


class Reading(FrozenModel):
    """How fast `size_bytes` of weights are read, over and over: the smaller, the nearer the cache that holds them."""

    size_bytes: int = Field(gt=0)
    bytes_per_s: float = Field(gt=0)


class Peaks(FrozenModel):
    """The best that was ever seen of a machine, a version of a runtime and a number of threads.

    An operation is a multiplication or an addition: one MAC is two. `call_ns` is the time of a network of one operator
    that does next to nothing.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    created: str
    runtime: Runtime
    runtime_version: str
    threads: int
    fingerprint: dict[str, Any]
    float32_per_s: float = Field(gt=0)
    int8_per_s: float = Field(gt=0)
    reading: tuple[Reading, ...] = Field(min_length=1)
    call_ns: float = Field(gt=0)

    def raised(self, other: Self) -> Self:
        """Return the better of two probes in everything: load and heat only ever lower what one finds."""
        best = {each.size_bytes: each.bytes_per_s for each in self.reading}
        for each in other.reading:
            best[each.size_bytes] = max(each.bytes_per_s, best.get(each.size_bytes, 0.0))
        reading = tuple(Reading(size_bytes=size, bytes_per_s=speed) for size, speed in sorted(best.items()))
        return other.model_copy(
            update={
                "float32_per_s": max(self.float32_per_s, other.float32_per_s),
                "int8_per_s": max(self.int8_per_s, other.int8_per_s),
                "reading": reading,
                "call_ns": min(self.call_ns, other.call_ns),
            }
        )
