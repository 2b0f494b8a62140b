"""Real measurements of tiny networks: their structure, not their speed; and what is refused before timing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from pipeline.core.errors import InputError, StageError
from pipeline.core.measurement import Measurement, load, save
from pipeline.core.stage import Runtime, SilentProgress
from pipeline.measure.harness import Subject, measure
from pipeline.measure.statistics import timings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def run(subjects: Sequence[Subject], **options: float) -> Measurement:
    """Measure for as short as the protocol allows."""
    return measure(subjects, threads=1, batch=int(options.get("batch", 1)), budget_s=0.2, seed=0)


def test_two_files_in_two_runtimes(write_onnx: Callable[..., Path], tmp_path: Path) -> None:
    """All four are interleaved, have times, and a speedup against the first in their runtime; samples are kept."""
    runtimes: tuple[Runtime, ...] = ("onnxruntime", "openvino")
    paths = {"wide": write_onnx("wide.onnx", width=8), "narrow": write_onnx("narrow.onnx")}
    measurement = run([Subject(label, name, path, label) for name in runtimes for label, path in paths.items()])
    rows = timings(measurement)
    assert list(rows) == [(label, name) for name in runtimes for label in paths]
    assert all((row.speedup is None) == (label == "wide") for (label, _), row in rows.items())
    assert all(row.milliseconds.low > 0 for row in rows.values())
    assert all(session.load_ns > 0 < session.first_ns for s in measurement.subjects for session in s.sessions)
    assert len(measurement.conditions) == len(measurement.subjects[0].sessions) >= 4
    assert measurement.fingerprint["architecture"]
    save(measurement, tmp_path / "measurement.json")
    assert load(tmp_path / "measurement.json") == measurement


def test_network_in_torch() -> None:
    """A network is measured where it is, with the shape that is given."""
    networks = [torch.nn.Conv2d(3, width, 3) for width in (4, 4)]
    measurement = run([Subject(str(i), "torch", net, str(i), (1, 3, 8, 8)) for i, net in enumerate(networks)])
    assert [subject.input_shape for subject in measurement.subjects] == [(1, 3, 8, 8)] * 2
    assert measurement.subjects[0].runtime_version == str(torch.__version__)


def test_what_is_in_force_is_said_before_timing(write_onnx: Callable[..., Path]) -> None:
    """Threads, batch, niceness and affinity are told, and kept."""
    notes: list[str] = []

    class Notes(SilentProgress):
        def note(self, text: str) -> None:
            notes.append(text)

    subject = Subject("net", "onnxruntime", write_onnx("net.onnx"), "net")
    measurement = measure([subject], threads=1, batch=2, budget_s=0.1, seed=0, progress=Notes())
    assert notes[0].startswith("measuring with 1 thread(s), batch 2, nice ")
    assert measurement.in_force.keys() == {"nice", "affinity"}


def test_nothing_to_measure_is_an_input_error() -> None:
    """At least one file is needed."""
    with pytest.raises(InputError, match="nothing to measure"):
        run([])


def test_network_with_values_that_are_not_finite_is_not_timed(write_onnx: Callable[..., Path]) -> None:
    """NaN is found before timing."""
    subject = Subject("broken", "onnxruntime", write_onnx("nan.onnx", scale=float("nan")), "nan")
    with pytest.raises(StageError, match="broken in onnxruntime returns values that are not finite"):
        run([subject])


def test_other_outputs_are_not_timed() -> None:
    """A network with other output shapes than the first is no candidate for it."""
    networks = [torch.nn.Conv2d(3, width, 3) for width in (4, 5)]
    with pytest.raises(StageError, match="returns shapes"):
        run([Subject(str(i), "torch", net, str(i), (1, 3, 8, 8)) for i, net in enumerate(networks)])


def test_other_inputs_are_refused(write_onnx: Callable[..., Path]) -> None:
    """Networks for different image sizes are not compared."""
    paths = [write_onnx("small.onnx"), write_onnx("large.onnx", size=16)]
    with pytest.raises(InputError, match="only networks for the same inputs"):
        run([Subject(path.name, "onnxruntime", path, path.name) for path in paths])


@pytest.mark.parametrize(("tolerance", "refused"), [(1e-9, True), (100.0, False), (None, False)])
def test_tolerance_is_asked_for_or_not_checked(
    write_onnx: Callable[..., Path], tolerance: float | None, *, refused: bool
) -> None:
    """Outputs may differ from the baseline's unless a tolerance says how far."""
    first, second = write_onnx("first.onnx"), write_onnx("second.onnx", scale=0.2)
    subjects = [
        Subject("first", "onnxruntime", first, "first"),
        Subject("second", "onnxruntime", second, "second", tolerance=tolerance),
    ]
    if refused:
        with pytest.raises(StageError, match="differs from its baseline by"):
            run(subjects)
    else:
        assert len(run(subjects).subjects) == 2


def test_network_needs_torch_and_its_shape() -> None:
    """A network without a shape cannot be given inputs."""
    with pytest.raises(InputError, match="measured in torch with its input shape"):
        run([Subject("net", "torch", torch.nn.Conv2d(3, 4, 3), "net")])
