"""A/A comparisons without a clock, what compare makes of them, and one short real run of the command."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.core.errors import IncomparableError, InputError
from pipeline.latency import compare as compare_module
from pipeline.latency import doctor as doctor_module
from pipeline.latency.compare import ComparisonRequest, compare_files
from pipeline.latency.device_cache import kept_file, read_kept
from pipeline.latency.doctor import copy_noise, examine_device, report_from
from pipeline.latency.noise import KnownNoise, invisible_margin, known_noise, seconds_of, with_floor
from pipeline.measure.devices.local import LocalDevice
from pipeline.measure.devices.qemu import QemuDevice
from pipeline.results.doctor import DoctorReport
from pipeline.results.measurement import Block, Conditions, Measurement, SamplingPlan, SessionSamples, SubjectSamples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pipeline.results.comparison import Comparison

MACHINE = {"cpu_model": "Some CPU", "virtual": "vm", "affinity": [0, 1], "logical_cores": 2}


def measured(
    ratio: float, *, threads: int = 1, preempted: int = 0, seed: int = 0, spread: float = 0.002
) -> Measurement:
    """Return four sessions of two subjects, the second `ratio` times as slow as the first: about a second in all."""
    rng = np.random.default_rng(seed)
    subjects: list[list[SessionSamples]] = [[], []]
    for _ in range(4):
        for slowness, sessions in zip((1.0, ratio), subjects, strict=True):
            times = (1e6 * slowness * rng.normal(1, spread, (12, 10))).astype(int).tolist()
            rounds = tuple(
                Block(order=0, wall_ns=each, cpu_ns=each, preemptions=preempted, frequency_mhz=3000) for each in times
            )
            sessions.append(SessionSamples(load_ns=10_000_000, first_ns=2_000_000, warmup=(), rounds=rounds))
    sides = tuple(
        SubjectSamples(
            label=label,
            runtime="onnxruntime",
            runtime_version="1",
            options={},
            digest=label,
            input_shapes={"image": (1, 3, 8, 8)},
            threads=threads,
            fingerprint=MACHINE,
            sessions=tuple(sessions),
        )
        for label, sessions in zip(("original", "copy"), subjects, strict=True)
    )
    return Measurement(
        created="2026-01-01T00:00:00+00:00",
        batch=1,
        seed=0,
        in_force={},
        plan=SamplingPlan(budget_s=1, strict=True),
        seconds=1.0,
        stopped="budget",
        conditions=(Conditions(load=0.3, steal=0.01), Conditions(load=1.3, steal=0.03)),
        subjects=sides,
    )


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is found out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[Measurement]], None]:
    """Return a function that makes doctor's and compare's measurements those that are given, in order."""

    def replay(measurements: Sequence[Measurement]) -> None:
        queue = list(measurements)

        def fake(*_: object, plan: object = None, ready: Any = None, **__: object) -> Measurement:  # noqa: ANN401, ARG001
            found = queue.pop(0)
            if ready:
                ready(found)
            return found

        for module in (doctor_module, compare_module):
            monkeypatch.setattr(module, "measure_subjects", fake)

    return replay


def kept(ratios: Sequence[float], **changes: object) -> DoctorReport:
    """Keep a report of these ratios for the machine of `measured`."""
    report = report_from([measured(each, seed=seed, spread=1e-6) for seed, each in enumerate(ratios)])
    report = report.model_copy(update=changes)
    file = kept_file("doctor", MACHINE, "onnxruntime", "1", 1)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(report.model_dump_json())
    return report


def test_noise_is_that_of_the_ratios() -> None:
    """95th percentile by interpolation, standard deviation of the logarithms."""
    found = copy_noise([0.98, 1.0, 1.01])
    assert found.q95 == pytest.approx(0.01 + 0.9 * 0.01)
    assert found.deviation == pytest.approx(np.std(np.log([0.98, 1.0, 1.01]), ddof=1))


def test_report_has_the_noise_of_both_clocks_and_the_smallest_margin() -> None:
    """One thread: CPU time decides; the first load counts, and the mean steal."""
    found = report_from([measured(ratio, preempted=1, spread=1e-6) for ratio in (0.99, 1.0, 1.02)])
    assert found.clock == "cpu"
    assert found.noise is found.cpu
    assert found.cpu.ratios == pytest.approx((0.99, 1.0, 1.02), abs=1e-4)
    assert found.smallest_margin == 2 * found.cpu.q95
    assert (found.load, found.interrupted_share) == (0.3, 1.0)
    assert found.steal == pytest.approx(0.02)
    assert found.inference_ms == pytest.approx(1, rel=0.01)
    assert {each.name for each in found.checks if each.level == "warn"} == {"interruptions", "machine"}
    assert report_from([measured(1.0, threads=2)] * 2).clock == "wall"


def test_enough_comparisons_are_kept(replayed: Callable[[Sequence[Measurement]], None]) -> None:
    """Five or more; fewer are shown only."""
    file = kept_file("doctor", MACHINE, "onnxruntime", "1", 1)
    replayed([measured(1.0)] * 4)
    examine_device(LocalDevice(), "onnxruntime", repeats=4)
    assert read_kept(file, DoctorReport) is None
    replayed([measured(1.0)] * 5)
    assert examine_device(LocalDevice(), "onnxruntime", repeats=5) == read_kept(file, DoctorReport)
    file.write_text('{"schema_version": 0}')
    assert read_kept(file, DoctorReport) is None


def test_what_has_no_time_or_no_spread_is_refused() -> None:
    """An emulated device, and a single comparison."""
    with pytest.raises(InputError, match="is emulated"):
        examine_device(QemuDevice("cortex-a72"), "onnxruntime")
    with pytest.raises(InputError, match="found 1 A/A comparisons"):
        examine_device(LocalDevice(), "onnxruntime", repeats=1)


@pytest.mark.parametrize(("budget_s", "margin"), [(2.0, 0.04), (0.5, 0.08), (8.0, 0.02), (32.0, 0.01), (3600.0, 0.01)])
def test_longer_comparisons_see_less_noise_down_to_a_quarter(budget_s: float, margin: float) -> None:
    """In proportion to 1 / sqrt(time), and shorter ones see more."""
    noise = KnownNoise(q95=0.02, deviation=0.008, seconds=2.0)
    assert noise.smallest_margin(budget_s) == pytest.approx(margin)
    assert noise.error_floor(budget_s) == pytest.approx(0.2 * margin)


def test_noise_is_known_for_the_same_machine_runtime_and_threads() -> None:
    """Of two sides the noisier counts; another machine's does not."""
    assert known_noise(measured(1.0), None) is None
    report = kept([0.98, 1.0, 1.0, 1.01, 1.0])
    found = known_noise(measured(1.0), None)
    assert found == KnownNoise(report.cpu.q95, report.cpu.deviation, report.seconds)
    assert known_noise(measured(1.0, threads=2), None) is None
    other = measured(1.0)
    moved = [each.model_copy(update={"fingerprint": {"cpu_model": "Another"}}) for each in other.subjects]
    assert known_noise(other.model_copy(update={"subjects": tuple(moved)}), None) is None


def test_errors_are_no_less_than_the_copies_showed() -> None:
    """The default floor holds on a quiet device."""
    found = measured(1.0)
    seconds = seconds_of(found)
    assert seconds == pytest.approx(2 * 4 * (0.12 + 0.012), rel=0.01)
    assert with_floor(found, KnownNoise(0.04, 0.02, seconds)).plan.error_floor == pytest.approx(0.02)
    assert with_floor(found, KnownNoise(0.001, 0.0001, seconds)).plan.error_floor == found.plan.error_floor
    assert with_floor(found, None) is found


def test_a_margin_that_the_device_cannot_see_is_refused() -> None:
    """With what it can see, and what to do."""
    noise = KnownNoise(q95=0.013, deviation=0.005, seconds=2.0)
    assert invisible_margin(noise, 0.03, 2.0, force=False) is None
    assert invisible_margin(None, 0.0, 2.0, force=False) is None
    with pytest.raises(IncomparableError, match=r"cannot see 1 %; in 2 s it can see 2.6 %: ask for a larger margin"):
        invisible_margin(noise, 0.01, 2.0, force=False)
    forced = invisible_margin(noise, 0.01, 2.0, force=True)
    assert forced
    assert "cannot see 1 %" in forced


def compared(tmp_path: Path, **question: Any) -> Comparison:  # noqa: ANN401
    """Compare two files whose measurement is replayed."""
    files = [tmp_path / name for name in ("a.onnx", "b.onnx")]
    for file in files:
        file.write_bytes(b"")
    found, _ = compare_files(files[0], files[1], ComparisonRequest(**{"roofline": False, "budget_s": 1.0, **question}))
    return found


def test_compare_takes_the_noise_into_account(
    tmp_path: Path, replayed: Callable[[Sequence[Measurement]], None]
) -> None:
    """Errors are as large as doctor found, and a margin below is exit code 4 unless it is forced."""
    replayed([measured(1.0)] * 4)
    assert compared(tmp_path).verdict == "PASS"
    assert compared(tmp_path, margin=0.01).noise.aa_q95 is None
    report = kept([0.985, 1.01, 1.0, 1.01, 0.995])
    found = compared(tmp_path, margin=0.05)
    assert found.noise.aa_q95 == report.cpu.q95
    assert found.noise.standard_error == pytest.approx(report.cpu.deviation, rel=0.05)
    with pytest.raises(IncomparableError) as refused:
        compared(tmp_path, margin=0.01)
    assert refused.value.exit_code == 4
    replayed([measured(1.0)])
    forced = compared(tmp_path, margin=0.01, force=True)
    assert forced.unfair
    assert [each.code for each in forced.reasons] == ["budget", "unfair"]


def test_command_examines_this_machine() -> None:
    """Two comparisons of 0.3 s: their ratios are near 1, every check is there, and nothing is kept of so few."""
    result = CliRunner().invoke(app, ["doctor", "--aa", "2", "--budget", "300ms", "--json"])
    assert result.exit_code == 0, result.output
    found = DoctorReport.model_validate(json.loads(result.stdout))
    assert len(found.cpu.ratios) == len(found.wall.ratios) == 2
    assert all(abs(math.log(ratio)) < 0.7 for ratio in found.cpu.ratios)
    assert found.smallest_margin == 2 * found.cpu.q95
    assert len(found.checks) >= 11
    file = kept_file("doctor", found.fingerprint, found.runtime, found.runtime_version, 1)
    assert read_kept(file, DoctorReport) is None


def test_command_draws_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks, noise by both clocks, margins for its own budget and for the usual one."""
    report = report_from([measured(ratio) for ratio in (0.98, 1.0, 1.02)])
    monkeypatch.setattr(doctor_module, "examine_device", lambda *_, **__: report)
    result = CliRunner().invoke(app, ["doctor", "--aa", "3"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for told in ("warn", "virtual", "CPU time", "wall time", "smallest honest margin in 30 s", "not kept: too few"):
        assert told in result.stdout


def test_command_refuses_a_budget_without_unit() -> None:
    """Bad input is exit code 2."""
    result = CliRunner().invoke(app, ["doctor", "--budget", "2"])
    assert result.exit_code == 2
    assert "--budget" in result.stderr
