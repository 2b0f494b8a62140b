"""Real measurements of tiny networks: their structure, not their speed; and what is refused before timing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import DeviceError, InputError, OutputsError
from pipeline.core.stage import Runtime, SilentProgress
from pipeline.measure.devices.local import LocalDevice
from pipeline.measure.harness import measure_subjects
from pipeline.measure.statistics import paired_speedup, report_timings
from pipeline.measure.subjects import MeasureTerms, Subject
from pipeline.results.measurement import Measurement, SamplingPlan, load_measurement, save_measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

#: As short as the protocol allows.
PLAN = SamplingPlan(budget_s=0.2, session_s=0.05, replicates=20)


def run(subjects: Sequence[Subject], terms: MeasureTerms | None = None) -> Measurement:
    """Measure on this machine."""
    return measure_subjects(subjects, terms or MeasureTerms(threads=1, batch=1), PLAN, seed=0)


def subject(path: Path, runtime: Runtime = "onnxruntime", tolerance: float | None = None) -> Subject:
    """Return a file to measure, named after itself."""
    return Subject(path.stem, runtime, path, path.stem, tolerance)


def test_two_files_in_two_runtimes(write_onnx: Callable[..., Path], tmp_path: Path) -> None:
    """All four are interleaved, have times, and a speedup against the first in their runtime; samples are kept."""
    runtimes: tuple[Runtime, ...] = ("onnxruntime", "openvino")
    paths = {"wide": write_onnx("wide.onnx", width=8), "narrow": write_onnx("narrow.onnx")}
    measurement = run([subject(path, name) for name in runtimes for path in paths.values()])
    rows = report_timings(measurement)
    assert list(rows) == [(label, name, "") for name in runtimes for label in paths]
    assert all((row.speedup is None) == (label == "wide") for (label, *_), row in rows.items())
    assert all(row.milliseconds.low > 0 for row in rows.values())
    assert all(session.load_ns > 0 < session.first_ns for s in measurement.subjects for session in s.sessions)
    assert len(measurement.conditions) == len(measurement.subjects[0].sessions) >= 4
    save_measurement(measurement, tmp_path / "measurement.json")
    assert load_measurement(tmp_path / "measurement.json") == measurement


def test_subject_says_what_it_is_and_on_what_terms_it_ran(write_onnx: Callable[..., Path]) -> None:
    """Path, size, shapes, threads, options, device, machine and peak memory stand beside the samples."""
    path = write_onnx("net.onnx")
    found = run([subject(path), subject(path)], MeasureTerms(threads=1, batch=2))
    (first, second) = found.subjects
    assert first.path == str(path)
    assert first.size_bytes == path.stat().st_size
    assert first.input_shapes == {"image": (2, 3, 8, 8)}
    assert (first.threads, first.device, first.options["intra_op_num_threads"]) == (1, "local", "1")
    assert first.fingerprint["architecture"]
    assert first.peak_rss_bytes is not None
    assert first.peak_rss_bytes > 1_000_000
    assert first.check is None
    assert second.check is not None
    assert (second.check.max_abs, second.check.relative) == (0, 0)
    assert second.check.cosine == pytest.approx(1)


def test_subject_may_have_threads_of_its_own(write_onnx: Callable[..., Path]) -> None:
    """Threads of a subject replace the common ones, in its samples and in its options."""
    path = write_onnx("net.onnx")
    other = Subject("two", "onnxruntime", path, "two", threads=2)
    found = run([subject(path), other])
    assert [each.threads for each in found.subjects] == [1, 2]
    assert [each.options["intra_op_num_threads"] for each in found.subjects] == ["1", "2"]


def test_two_devices_take_turns(write_onnx: Callable[..., Path]) -> None:
    """Each subject lives in the worker of its device, and every round has one block of both."""
    path = write_onnx("net.onnx")
    subjects = [subject(path), Subject("there", "onnxruntime", path, "there", device=1)]
    found = measure_subjects(
        subjects, MeasureTerms(threads=1, batch=1), PLAN, seed=0, devices=(LocalDevice(), LocalDevice())
    )
    rounds = [
        (a.order, b.order)
        for first, second in zip(*(each.sessions for each in found.subjects), strict=True)
        for a, b in zip(first.rounds, second.rounds, strict=True)
    ]
    assert set(rounds) <= {(0, 1), (1, 0)}
    assert len(rounds) >= 12


def test_what_is_in_force_is_said_before_timing(write_onnx: Callable[..., Path]) -> None:
    """Threads, batch, niceness and affinity are told, and kept."""
    notes: list[str] = []

    class Notes(SilentProgress):
        def note(self, text: str) -> None:
            notes.append(text)

    path = write_onnx("net.onnx")
    measurement = measure_subjects([subject(path)], MeasureTerms(threads=1, batch=2), PLAN, seed=0, progress=Notes())
    assert notes[0].startswith("measuring with 1 thread(s), batch 2, nice ")
    assert measurement.in_force.keys() >= {"nice", "affinity"}


def test_whoever_is_asked_before_timing_may_refuse(write_onnx: Callable[..., Path]) -> None:
    """`ready` sees everything but samples, and what it raises ends the measurement."""
    seen: list[Measurement] = []

    def refuse(found: Measurement) -> None:
        seen.append(found)
        raise InputError("not like this")

    with pytest.raises(InputError, match="not like this"):
        measure_subjects(
            [subject(write_onnx("net.onnx"))], MeasureTerms(threads=1, batch=1), PLAN, seed=0, ready=refuse
        )
    assert seen[0].subjects[0].sessions == ()
    assert seen[0].subjects[0].input_shapes == {"image": (1, 3, 8, 8)}


def test_nothing_to_measure_is_an_input_error() -> None:
    """At least one file is needed."""
    with pytest.raises(InputError, match="nothing to measure"):
        run([])


def test_network_with_values_that_are_not_finite_is_not_timed(write_onnx: Callable[..., Path]) -> None:
    """NaN is found before timing."""
    with pytest.raises(OutputsError, match="nan in onnxruntime returns values that are not finite"):
        run([subject(write_onnx("nan.onnx", scale=float("nan")))])


def test_images_of_another_size_are_timed_without_a_look_at_outputs(write_onnx: Callable[..., Path]) -> None:
    """Each file runs on images of its own size; what they compute of different images is not compared."""
    paths = [write_onnx("large.onnx", size=16), write_onnx("small.onnx")]
    found = run([subject(path, tolerance=0.0) for path in paths])
    assert [each.input_shapes["image"] for each in found.subjects] == [(1, 3, 16, 16), (1, 3, 8, 8)]
    assert [each.check for each in found.subjects] == [None, None]
    assert paired_speedup(found, 1, "wall") is not None


def test_tolerance_that_is_exceeded_is_refused(write_onnx: Callable[..., Path]) -> None:
    """Outputs that are twice the baseline's differ by all of its largest output."""
    paths = [write_onnx("first.onnx"), write_onnx("second.onnx", scale=0.2)]
    with pytest.raises(OutputsError, match=r"second differs from first by .*, 100\.00% of its largest output"):
        run([subject(path, tolerance=0.5) for path in paths])


def test_without_a_tolerance_outputs_may_differ(write_onnx: Callable[..., Path]) -> None:
    """A pruned network computes something else: how far off it is, is told."""
    paths = [write_onnx("first.onnx"), write_onnx("second.onnx", scale=0.2)]
    check = run([subject(path) for path in paths]).subjects[1].check
    assert check is not None
    assert check.relative == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_damaged_file_says_why_it_cannot_be_read(runtime: Runtime, tmp_path: Path) -> None:
    """The runtime's reason arrives as an input error, though the file is first loaded in a process of its own."""
    path = tmp_path / "bad.onnx"
    path.write_text("no network")
    with pytest.raises(InputError, match=f"bad.onnx: {runtime} .* cannot read it"):
        run([subject(path, runtime)])


def test_device_without_the_runtime_is_told_what_to_install(
    write_onnx: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python that lacks numpy and the runtime gets the line that installs both."""
    monkeypatch.setenv("BARE_PYTHON", sys.executable)
    bare = tmp_path / "python"
    bare.write_text('#!/bin/sh\nexec "$BARE_PYTHON" -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(DeviceError, match=r"no numpy.*no onnxruntime.*pip install numpy==\S+ onnxruntime=="):
        measure_subjects(
            [subject(write_onnx("net.onnx"))],
            MeasureTerms(threads=1, batch=1),
            PLAN,
            seed=0,
            devices=(LocalDevice(str(bare)),),
        )
