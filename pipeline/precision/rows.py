"""Rows of the tables about targets: for which runtime and processor a verdict holds, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from pipeline.compress.quantization.names import OtherPrecision

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.compress.quantization.names import Scheme

Architecture = Literal["x86-64", "arm64"]
#: How much faster than float32 int8 is: `large` is about what its width promises, `small` less than half of that.
Gain = Literal["large", "small", "none", "unknown"]
#: bfloat16 is a hint of OpenVINO's, not a file: facts speak of it, no stage makes it.
Precision = Literal[OtherPrecision, "bf16"]
#: `native`: arithmetic in that precision. `storage`: read, but computed in float32. `none`: not worth a file.
Support = Literal["native", "storage", "none"]


@dataclass(frozen=True, kw_only=True)
class TargetRow:
    """For whom a verdict holds: what is None or empty holds for all.

    `needs`: the processor has at least one of these flags; `lacks`: it has none of these (names as in /proc/cpuinfo).
    `since`: the first version of the runtime. `reason` is one sentence, `source` a URL or the title of a document.
    """

    name: str
    runtime: str | None = None
    architecture: Architecture | None = None
    needs: frozenset[str] = frozenset()
    lacks: frozenset[str] = frozenset()
    since: tuple[int, ...] = ()
    reason: str
    source: str

    def holds(
        self, runtime: str, version: tuple[int, ...] | None, architecture: Architecture | None, flags: frozenset[str]
    ) -> bool:
        """Say whether the verdict is about this target; a version of None is taken to be new enough."""
        return (
            self.runtime in {None, runtime}
            and self.architecture in {None, architecture}
            and (not self.needs or bool(self.needs & flags))
            and not self.lacks & flags
            and (version is None or version >= self.since)
        )


@dataclass(frozen=True, kw_only=True)
class Int8Row(TargetRow):
    """What static int8 is there.

    `schemes` come in order of preference; empty where none is worth a file. `saturates`: sums of two u8 x s8 products
    can be clipped to 16 bits, so that full-range weights compute something else. `known` is False for the cautious row
    that holds when nothing is known of the processor.
    """

    schemes: tuple[Scheme, ...]
    saturates: bool
    gain: Gain
    per_channel: bool = True
    symmetric: bool = False
    known: bool = True


@dataclass(frozen=True, kw_only=True)
class PrecisionRow(TargetRow):
    """What one other precision is there. `options` are what the runtime has to be told for it (session, compile)."""

    precision: Precision
    support: Support
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
