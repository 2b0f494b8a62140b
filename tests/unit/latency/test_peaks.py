"""Peaks from prepared measurements, the networks that find them, and what compare makes of limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest

from pipeline.analysis.cost import onnx_cost
from pipeline.core.errors import DeviceError
from pipeline.core.stage import SilentProgress
from pipeline.latency import networks
from pipeline.latency import peaks as peaks_module
from pipeline.latency import rooflines as rooflines_module
from pipeline.latency.device_cache import kept_file, read_kept
from pipeline.latency.peaks import peaks_from, peaks_of, shortest_ns, write_probes
from pipeline.latency.rooflines import with_rooflines, work_of
from pipeline.measure.devices.local import LocalDevice
from pipeline.measure.roofline import Work
from pipeline.results.comparison import Comparison, Noise, Protocol, Reason, Side, Spread
from pipeline.results.measurement import Block, Measurement, SamplingPlan, SessionSamples, SubjectSamples
from pipeline.results.peaks import Peaks, Reading

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MIB = 2**20
PROBES = {
    "call": 10_000,
    "products": 4_000_000,
    "products int8": 3_000_000,
    "convolutions": 3_000_000,
    "convolutions int8": 1_500_000,
    "1": 40_000,
    "8": 210_000,
    "48": 4_000_000,
}


def subject(label: str, wall_ns: int, cpu_ns: int | None = None, threads: int = 1) -> SubjectSamples:
    """Return one session whose shortest inference has these times."""
    block = Block(order=0, wall_ns=(2 * wall_ns, wall_ns), cpu_ns=(2 * wall_ns, cpu_ns or wall_ns), preemptions=0)
    return SubjectSamples(
        label=label,
        runtime="onnxruntime",
        runtime_version="1",
        options={},
        digest=label,
        input_shapes={"x": (1, 1024)},
        threads=threads,
        fingerprint={"cpu_model": "Some CPU"},
        sessions=(SessionSamples(load_ns=1, first_ns=1, warmup=(), rounds=(block,)),),
    )


def measured(times: Mapping[str, int]) -> Measurement:
    """Return a measurement of subjects with these shortest times."""
    return Measurement(
        created="2026-01-01T00:00:00+00:00",
        batch=1,
        seed=0,
        in_force={},
        plan=SamplingPlan(budget_s=1),
        seconds=1.0,
        stopped="budget",
        conditions=(),
        subjects=tuple(subject(label, ns) for label, ns in times.items()),
    )


def compared(baseline_ns: int, candidate_ns: int) -> tuple[Comparison, Measurement]:
    """Return a PASS of two files with these shortest inferences."""
    measurement = measured({"a.onnx": baseline_ns, "b.onnx": candidate_ns})
    sides = [
        Side(
            label=each.label,
            path=each.label,
            digest=each.digest,
            runtime=each.runtime,
            runtime_version="1",
            options={},
            input_shapes={},
            threads=1,
            device="local",
            fingerprint={},
            wall_ns=Spread(inferences=2, min=shortest_ns(each), mean=shortest_ns(each)),
        )
        for each in measurement.subjects
    ]
    found = Comparison(
        tool_version="1",
        created="2026-01-01T00:00:00+00:00",
        name="b",
        verdict="PASS",
        reasons=(Reason(code="not slower", text=""),),
        margin=0.03,
        metric="cpu",
        baseline=sides[0],
        candidate=sides[1],
        protocol=Protocol(seed=0, budget_s=1, seconds=1, stopped="budget", sessions=1, rounds=1, looks=1),
        noise=Noise(),
    )
    return found, measurement


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is found out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_peaks_are_those_of_the_best_probes() -> None:
    """The faster of products and convolutions; a call's time is no part of reading."""
    found = peaks_from(measured(PROBES))
    assert found.float32_per_s == pytest.approx(2 * networks.CONVOLUTION_MACS / 3e-3)
    assert found.int8_per_s == pytest.approx(2 * networks.CONVOLUTION_MACS / 1.5e-3)
    assert found.call_ns == 10_000
    assert [each.size_bytes for each in found.reading] == [MIB, 8 * MIB, 48 * MIB]
    assert found.reading[1].bytes_per_s == pytest.approx(8 * MIB / 0.2e-3)


def test_shortest_inference_is_by_cpu_time_on_one_thread() -> None:
    """With more threads CPU time adds up."""
    assert shortest_ns(subject("x", 1000, 900)) == 900
    assert shortest_ns(subject("x", 1000, 1100)) == 1000
    assert shortest_ns(subject("x", 1000, 900, threads=2)) == 1000


def test_probes_have_the_work_that_they_are_counted_with(tmp_path: Path) -> None:
    """MACs, bytes and 8-bit layers as pipeline.analysis.cost counts them; the same bytes each time."""
    files = write_probes(tmp_path, memory_bytes=None)
    costs = {name: onnx_cost(file) for name, file in files.items()}
    assert costs.keys() == PROBES.keys()
    for name, macs in peaks_module.MACS.items():
        assert (costs[name].macs, costs[name].int8_macs) == (macs, 0)
        assert (costs[f"{name} int8"].macs, costs[f"{name} int8"].int8_macs) == (macs, macs)
    for size in (1, 8, 48):
        assert costs[str(size)].weight_bytes == size * MIB
    again = write_probes(tmp_path / "again", memory_bytes=2**29)
    assert list(again) == list(files)[:-1]
    assert all(file.read_bytes() == files[name].read_bytes() for name, file in again.items())


def test_layers_of_a_fully_connected_probe_differ(tmp_path: Path) -> None:
    """A runtime keeps equal weights once, and would read them from a cache."""
    model = onnx.load(networks.write_fully_connected(tmp_path / "fc.onnx", 12))
    weights = {tensor.raw_data for tensor in model.graph.initializer if len(tensor.dims) == 2}
    assert len(weights) == 3


def test_small_cnn_is_30_million_macs(tmp_path: Path) -> None:
    """About a millisecond."""
    assert onnx_cost(networks.write_small_cnn(tmp_path / "cnn.onnx")).macs == 30_192_896


def test_a_device_is_probed_once_and_only_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is used; a new probe that was slower changes nothing, a faster one does."""
    speeds = iter([1.0, 2.0, 0.5])
    monkeypatch.setattr(
        peaks_module,
        "measure_subjects",
        lambda *_, **__: (
            measured(dict(zip(PROBES, (int(ns * slow) for ns in PROBES.values()), strict=True)))
            if (slow := next(speeds))
            else None
        ),
    )
    side, notes = subject("a.onnx", 1000), Notes()
    first = peaks_of(side, LocalDevice(), progress=notes)
    assert peaks_of(side, LocalDevice(), progress=notes) == first
    assert len(notes.told) == 1
    assert "probing the peak performance of local in onnxruntime" in notes.told[0]
    slower = peaks_of(side, LocalDevice(), progress=notes, again=True)
    assert slower.float32_per_s == first.float32_per_s
    faster = peaks_of(side, LocalDevice(), progress=notes, again=True)
    assert faster.float32_per_s == pytest.approx(2 * first.float32_per_s)
    assert read_kept(kept_file("peaks", side.fingerprint, "onnxruntime", "1", 1), Peaks) == faster


class Notes(SilentProgress):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        """Keep one line."""
        self.told.append(text)


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Let peaks be 100 G operations/s, and 10 % more with each new probe; return whether each was asked for again."""
    asked: list[bool] = []

    def fake(*_: object, again: bool = False, **__: object) -> Peaks:
        asked.append(again)
        return Peaks(
            created="",
            runtime="onnxruntime",
            runtime_version="1",
            threads=1,
            fingerprint={},
            float32_per_s=100e9 * 1.1 ** sum(asked),
            int8_per_s=200e9,
            reading=(Reading(size_bytes=MIB, bytes_per_s=10e9),),
            call_ns=1000,
        )

    monkeypatch.setattr(rooflines_module, "peaks_of", fake)
    monkeypatch.setattr(rooflines_module, "work_of", lambda *_: Work(50_000_000, 0, MIB))
    return asked


def test_both_sides_get_their_limits(probes: list[bool], tmp_path: Path) -> None:
    """1 ms is needed."""
    found, measurement = compared(1_250_000, 2_000_000)
    found = with_rooflines(found, measurement, (tmp_path, tmp_path))
    limits = [side.roofline for side in (found.baseline, found.candidate)]
    assert [limit and round(limit.efficiency, 6) for limit in limits] == [0.8, 0.5]
    assert (found.verdict, probes) == ("PASS", [False, False])


def test_peaks_are_probed_again_before_a_side_is_doubted(probes: list[bool], tmp_path: Path) -> None:
    """A slow moment of the first probe is no fault of the measurement."""
    found, measurement = compared(1_000_000, 850_000)
    found = with_rooflines(found, measurement, (tmp_path, tmp_path))
    assert (found.verdict, probes) == ("PASS", [False, False, True])


def test_faster_than_the_machine_is_no_result(probes: list[bool], tmp_path: Path) -> None:
    """The verdict is INCONCLUSIVE, with the side that is too fast."""
    found, measurement = compared(1_000_000, 500_000)
    found = with_rooflines(found, measurement, (tmp_path, tmp_path))
    assert (found.verdict, probes) == ("INCONCLUSIVE", [False, False, True, True])
    assert found.reasons[-1].code == "above roofline"
    assert found.reasons[-1].text.startswith("b.onnx took 0.5 ms at best, but needs 0.826 ms")


def test_a_device_that_cannot_be_probed_costs_no_comparison(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A note says why there is no roofline."""

    def gone(*_: object, **__: object) -> Peaks:
        raise DeviceError("the device is gone")

    monkeypatch.setattr(rooflines_module, "peaks_of", gone)
    monkeypatch.setattr(rooflines_module, "work_of", lambda *_: Work(1, 0, 1))
    (found, measurement), notes = compared(1000, 1000), Notes()
    assert with_rooflines(found, measurement, (tmp_path, tmp_path), progress=notes) == found
    assert notes.told[0] == "no roofline for a.onnx: the device is gone"


def test_what_cannot_be_counted_has_no_roofline(tmp_path: Path) -> None:
    """No file, no layer that multiplies: absent, never zero."""
    assert work_of(tmp_path / "nothing.onnx", 1) is None
    assert work_of(networks.write_one_operator(tmp_path / "one.onnx"), 1) is None
    assert work_of(networks.write_fully_connected(tmp_path / "fc.onnx", 1), 4) == Work(4 * 1024 * 256, 0, MIB)
