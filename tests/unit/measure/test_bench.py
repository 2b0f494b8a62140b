"""One command's worth of measuring: files against the first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import InputError
from pipeline.measure.bench import bench_files, plan_for
from pipeline.measure.statistics import paired_speedup, report_timings
from pipeline.measure.subjects import MeasureTerms

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_one_file_is_measured_alone(write_onnx: Callable[..., Path]) -> None:
    """Without a second file there is no speedup."""
    path = write_onnx("net.onnx")
    measurement = bench_files([path], MeasureTerms(threads=1, batch=1), runtime="onnxruntime", budget_s=0.1, seed=0)
    assert [subject.label for subject in measurement.subjects] == [str(path)]
    assert paired_speedup(measurement, 0, "wall") is None


def test_same_file_twice_is_a_pair(write_onnx: Callable[..., Path]) -> None:
    """A file compared with itself shows the machine's noise."""
    path = write_onnx("net.onnx")
    measurement = bench_files(
        [path, path], MeasureTerms(threads=1, batch=2), runtime="onnxruntime", budget_s=0.1, seed=0
    )
    assert paired_speedup(measurement, 1, "wall") is not None
    assert measurement.subjects[0].digest == measurement.subjects[1].digest
    assert measurement.batch == 2


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_files_are_compared_at_each_size(write_onnx: Callable[..., Path], runtime: str) -> None:
    """The first file at a size is the baseline there; the first size is the first timing."""
    path = write_onnx("net.onnx", size="side")
    sizes = {f"side {side}": {"image": (1, 3, side, side)} for side in (8, 16)}
    terms = MeasureTerms(threads=1, batch=1, measure_peak_memory=False)
    found = bench_files([path, path], terms, runtime=runtime, budget_s=0.1, seed=0, sizes=sizes)
    assert [each.input_shapes["image"][2] for each in found.subjects] == [8, 8, 16, 16]
    assert [found.baseline(index) for index in range(4)] == [0, 0, 2, 2]
    assert [check is not None for check in (each.check for each in found.subjects)] == [False, True, False, True]
    assert [timing.size for timing in report_timings(found).values()] == ["side 8", "side 16"]


@pytest.mark.parametrize("name", ["none.onnx", "model.xml"])
def test_missing_part_is_an_input_error(tmp_path: Path, name: str) -> None:
    """A file that does not exist, or an .xml without its .bin, is named."""
    (tmp_path / "model.xml").write_text("graph")
    with pytest.raises(InputError, match="does not exist; expected an exported network"):
        bench_files([tmp_path / name], MeasureTerms(threads=1, batch=1), runtime="openvino", budget_s=0.1, seed=0)


def test_no_file_is_an_input_error() -> None:
    """There must be something to measure."""
    with pytest.raises(InputError, match="nothing to measure"):
        bench_files([], MeasureTerms(threads=1, batch=1), runtime="onnxruntime", budget_s=0.1, seed=0)


@pytest.mark.parametrize(
    ("subjects", "budget_s", "session_s"), [(1, 30, 0.6), (2, 30, 0.6), (10, 60, 3.0), (10, 4, 1.0), (1, 0.1, 0.025)]
)
def test_sessions_are_long_enough_for_all_files_and_at_least_four(
    subjects: int, budget_s: float, session_s: float
) -> None:
    """A session has 0.3 s for each file, unless four such sessions do not fit into the budget."""
    plan = plan_for(subjects, budget_s)
    assert plan.session_s == pytest.approx(session_s)
    assert plan.max_sessions >= 4
    assert plan.budget_s == budget_s
    assert not plan.strict
