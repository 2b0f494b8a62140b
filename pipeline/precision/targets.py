"""Facts about a target: which int8 schemes suit its processor and runtime, and what other precisions it has.

The facts stand in two tables (`int8_rows`, `precision_rows`), each with its reason and source; here is only the search
in them. Nothing is measured and no library is loaded. They say where looking is worth the time, never how fast a file
is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.precision.int8_rows import INT8_ROWS
from pipeline.precision.precision_rows import PRECISION_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.compress.quantization.names import Scheme
    from pipeline.precision.rows import Architecture, Int8Row, Precision, PrecisionRow

#: What platform.machine() says on different systems.
MACHINES: dict[str, Architecture] = {"x86_64": "x86-64", "amd64": "x86-64", "aarch64": "arm64", "arm64": "arm64"}
#: Flags that tell the architecture where only flags are known.
_TELLING: dict[str, Architecture] = {"asimd": "arm64", "asimddp": "arm64", "avx": "x86-64", "avx2": "x86-64"}
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class TargetFacts:
    """What is known of one processor with one runtime.

    `version` is the runtime's, None where it is not known. `int8` is the row about static int8, the first of whose
    schemes is the one to try first. `precisions` has a row for each other precision.
    """

    runtime: str
    version: str | None
    architecture: Architecture | None
    flags: frozenset[str]
    int8: Int8Row
    precisions: Mapping[Precision, PrecisionRow]

    @property
    def schemes(self) -> tuple[Scheme, ...]:
        """Sensible int8 schemes, the best first; empty where int8 is not worth a file."""
        return self.int8.schemes

    @property
    def saturates(self) -> bool:
        """Whether full-range u8s8 (and s8s8) weights can compute something else than their sums here."""
        return self.int8.saturates

    @property
    def known(self) -> bool:
        """Whether a row is about this processor; otherwise the cautious one was taken, and its reason says so."""
        return self.int8.known


def target_facts(fingerprint: Mapping[str, Any], runtime: str, version: str | None = None) -> TargetFacts:
    """Return what is known of a processor with a runtime.

    `fingerprint` is that of `measure.machine.machine_fingerprint()`: of it `architecture` and `isa` are read, and
    either may be missing. `version` is the runtime's, such as "1.31.1"; None stands for a new one. Of a processor or
    runtime that no row is about the cautious row is returned (`known` is False); nothing is raised.
    """
    flags = frozenset(fingerprint.get("isa") or ())
    architecture = _architecture(fingerprint.get("architecture"), flags)
    target = (runtime, _numbers(version), architecture, flags)
    precisions: dict[Precision, PrecisionRow] = {}
    for row in PRECISION_ROWS:
        if row.holds(*target):
            precisions.setdefault(row.precision, row)
    int8 = next(row for row in INT8_ROWS if row.holds(*target))
    return TargetFacts(runtime, version, architecture, flags, int8, precisions)


def resolved_scheme(scheme: Scheme | Literal["auto"], flags: frozenset[str]) -> Scheme:
    """Return the scheme itself, or for `auto` the best one with these flags; u8s8 where int8 has no kernels."""
    if scheme != "auto":
        return scheme
    return next(iter(target_facts({"isa": flags}, "onnxruntime").schemes), "u8s8")


def _architecture(machine: str | None, flags: frozenset[str]) -> Architecture | None:
    if machine:
        return MACHINES.get(machine.lower())
    return next((_TELLING[flag] for flag in _TELLING if flag in flags), None)


def _numbers(version: str | None) -> tuple[int, ...] | None:
    """Return (1, 31, 1) for "1.31.1"; what follows a space, a plus or a dash is a build's name."""
    return tuple(int(part) for part in _NUMBER.findall(re.split(r"[ +-]", version)[0])) if version else None
