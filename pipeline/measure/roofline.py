"""The least time that a network's operations and weights need on a device, and what limits it there.

t_min is the longer of operations / peak and bytes / speed of reading. Layers with 8-bit weights are held against the
larger of the int8 and the float32 peak, since a runtime may widen the weights and multiply in float32. Bytes are those
of the weights as they are stored; what layers hand to each other is not counted, so t_min is never too long for it.

Source: Williams, Waterman & Patterson, "Roofline: An Insightful Visual Performance Model" (CACM 2009).

Limits: the peaks come from dense products and 3x3 convolutions in the same runtime. A runtime that needs fewer
multiplications for other shapes than a file has on paper would be told to be above them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.results.comparison import Bound

if TYPE_CHECKING:
    from pipeline.results.peaks import Peaks

Limit = Literal["compute", "bandwidth", "overhead"]

#: Below this many times the call of one small operator, the time that t_min leaves open is that of calling operators;
#: it is most of the time when t_min is less than half.
_OVERHEAD_CALLS = 20
_MOSTLY = 0.5
#: Faster than t_min by more than this, and the measurement is wrong, or the peaks are.
_ABOVE = 1.10
_LEVERS: dict[Limit, str] = {
    "compute": "limited by its multiplications: prune widths, or quantize",
    "bandwidth": "limited by reading its weights: quantize them (float32 to int8 gains at most 4x), or prune",
    "overhead": "most of its time goes into calling operators: fuse them, or use fewer; narrower layers gain little",
}


@dataclass(frozen=True)
class Work:
    """What one inference has to do: multiply-accumulates, those in layers with 8-bit weights, bytes of weights."""

    macs: int
    int8_macs: int
    weight_bytes: int


def roofline_bound(work: Work, peaks: Peaks, time_ns: float) -> Bound:
    """Return what limits a network that takes `time_ns`, and the share of that limit which it reaches."""
    compute_s, reading_s = _compute_seconds(work, peaks), reading_seconds(work, peaks)
    least_s = max(compute_s, reading_s)
    efficiency, few_calls = least_s * 1e9 / time_ns, time_ns < _OVERHEAD_CALLS * peaks.call_ns
    limit: Limit = "compute" if compute_s >= reading_s else "bandwidth"
    return Bound(
        bound="overhead" if few_calls and efficiency < _MOSTLY else limit,
        least_ms=least_s * 1e3,
        efficiency=efficiency,
        macs=work.macs,
        bytes=work.weight_bytes,
    )


def _compute_seconds(work: Work, peaks: Peaks) -> float:
    """Return how long the multiplications and additions take at the peaks."""
    wide = work.macs - work.int8_macs
    return 2 * wide / peaks.float32_per_s + 2 * work.int8_macs / max(peaks.int8_per_s, peaks.float32_per_s)


def reading_seconds(work: Work, peaks: Peaks) -> float:
    """Return how long it takes to read the weights once.

    The speed is the best that was seen of anything as large as the largest probe below them, or larger: weights that
    may fit into a cache are never held against the speed of memory.
    """
    below = [each.size_bytes for each in peaks.reading if each.size_bytes <= work.weight_bytes]
    least = max(below, default=0)
    return work.weight_bytes / max(each.bytes_per_s for each in peaks.reading if each.size_bytes >= least)


def exceeds_roofline(found: Bound) -> bool:
    """Say whether a network was faster than its operations and bytes allow."""
    return found.efficiency > _ABOVE


def speed_lever(found: Bound) -> str:
    """Return what limits a network and what would still make it faster."""
    return _LEVERS[found.bound]
