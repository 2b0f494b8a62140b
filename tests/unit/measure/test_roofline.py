"""Limits of networks, by arithmetic on prepared peaks."""

from __future__ import annotations

import pytest

from pipeline.measure.roofline import Work, exceeds_roofline, reading_seconds, roofline_bound, speed_lever
from pipeline.results.peaks import Peaks, Reading

MIB = 2**20


def peaks(**fields: object) -> Peaks:
    """Return round peaks: 100 and 200 G operations/s, up to 40 GB/s from caches, 10 from memory, 10 us a call."""
    content: dict[str, object] = {
        "created": "2026-01-01T00:00:00+00:00",
        "runtime": "onnxruntime",
        "runtime_version": "1",
        "threads": 1,
        "fingerprint": {},
        "float32_per_s": 100e9,
        "int8_per_s": 200e9,
        "reading": (
            Reading(size_bytes=MIB, bytes_per_s=30e9),
            Reading(size_bytes=8 * MIB, bytes_per_s=40e9),
            Reading(size_bytes=48 * MIB, bytes_per_s=10e9),
        ),
        "call_ns": 10_000,
    }
    return Peaks.model_validate({**content, **fields})


def test_operations_limit_a_convolutional_network() -> None:
    """52.3 M MACs are 104.6 M operations: 1.046 ms at 100 G/s."""
    found = roofline_bound(Work(52_300_000, 0, MIB), peaks(), 1_140_000)
    assert found.bound == "compute"
    assert found.least_ms == pytest.approx(1.046)
    assert found.efficiency == pytest.approx(1.046 / 1.14)
    assert (found.macs, found.bytes) == (52_300_000, MIB)
    assert "prune widths" in speed_lever(found)


def test_weights_limit_a_fully_connected_network() -> None:
    """56.6 MB of float32 weights at 10 GB/s; int8 makes them a quarter."""
    size = 56_600_000
    found = roofline_bound(Work(size // 4, 0, size), peaks(), 6_000_000)
    assert found.bound == "bandwidth"
    assert found.least_ms == pytest.approx(5.66)
    assert "at most 4x" in speed_lever(found)


def test_calls_limit_a_tiny_network() -> None:
    """Below twenty calls, when the operations explain less than half."""
    found = roofline_bound(Work(1_000_000, 0, 1000), peaks(), 150_000)
    assert found.bound == "overhead"
    assert "fuse" in speed_lever(found)
    assert roofline_bound(Work(6_000_000, 0, 1000), peaks(), 150_000).bound == "compute"
    assert roofline_bound(Work(1_000_000, 0, 1000), peaks(), 200_001).bound == "compute"


@pytest.mark.parametrize(
    ("int8_macs", "int8_peak", "least_ms"),
    [(0, 200e9, 1.0), (50_000_000, 200e9, 0.5), (20_000_000, 200e9, 0.6 + 0.2), (50_000_000, 60e9, 1.0)],
)
def test_layers_in_8_bits_are_held_against_the_larger_peak(int8_macs: int, int8_peak: float, least_ms: float) -> None:
    """Where int8 is slow, a runtime may widen the weights and multiply in float32."""
    found = roofline_bound(Work(50_000_000, int8_macs, MIB), peaks(int8_per_s=int8_peak), 2_000_000)
    assert found.least_ms == pytest.approx(least_ms)


@pytest.mark.parametrize(
    ("size", "speed"), [(1000, 40e9), (MIB, 40e9), (8 * MIB, 40e9), (30 * MIB, 40e9), (48 * MIB, 10e9)]
)
def test_weights_that_may_fit_into_a_cache_are_not_held_against_memory(size: int, speed: float) -> None:
    """The speed is that of the largest probe below, or better."""
    assert reading_seconds(Work(0, 0, size), peaks()) == pytest.approx(size / speed)


def test_what_is_more_than_a_tenth_too_fast_is_above() -> None:
    """Ten percent are the peaks' own noise."""
    work = Work(50_000_000, 0, MIB)
    assert not exceeds_roofline(roofline_bound(work, peaks(), 920_000))
    assert exceeds_roofline(roofline_bound(work, peaks(), 900_000))


def test_a_later_probe_can_only_raise() -> None:
    """Each value is the better of the two; the newer one's date and sizes join."""
    slow = peaks(
        created="2027-01-01T00:00:00+00:00",
        float32_per_s=90e9,
        int8_per_s=210e9,
        reading=(Reading(size_bytes=MIB, bytes_per_s=50e9), Reading(size_bytes=8 * MIB, bytes_per_s=20e9)),
        call_ns=12_000,
    )
    found = peaks().raised(slow)
    assert (found.float32_per_s, found.int8_per_s, found.call_ns) == (100e9, 210e9, 10_000)
    assert [each.bytes_per_s for each in found.reading] == [50e9, 40e9, 10e9]
    assert found.created == slow.created
    assert slow.raised(peaks()).reading == found.reading
