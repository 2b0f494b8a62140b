"""Prepared comparisons in place of measurements."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.measure.model_files import model_files
from pipeline.results.comparison import Comparison, Noise, Protocol, Reason, Side
from pipeline.results.measurement import Measurement, SamplingPlan, SubjectSamples
from pipeline.results.run import Interval

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.core.stage import Progress
    from pipeline.latency.compare import ComparisonRequest
    from pipeline.results.comparison import Verdict

MACHINE = {"cpu_model": "a processor", "architecture": "x86_64", "isa": ["avx2"]}


@dataclass
class Prepared:
    """Answers one model after the other: a verdict with its p-value, or an error to raise."""

    answers: dict[str, list[tuple[Verdict, float] | Exception]]
    threads: int = 1
    runtime: str = "onnxruntime"
    version: str = "1.31.1"
    machine: dict[str, object] = field(default_factory=lambda: dict(MACHINE))
    ratio: float = 1.0
    asked: list[tuple[str, ComparisonRequest, Path]] = field(default_factory=list)

    def __call__(
        self,
        baseline: Path,
        candidate: Path,
        question: ComparisonRequest,
        *,
        name: str,
        device: str,
        progress: Progress,
    ) -> tuple[Comparison, Measurement]:
        """Return the next answer for a model, after the check of its terms."""
        del device, progress
        self.asked.append((name, question, baseline))
        measurement = self.measurement(baseline, candidate)
        if question.differs and not question.force:
            fields = question.differs(measurement)
            if fields:
                from pipeline.core.errors import IncomparableError  # noqa: PLC0415

                error = IncomparableError("differ")
                error.fields = fields
                raise error
        answer = self.answers[name].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return comparison(name, measurement, answer, question.margin, self.ratio), measurement

    def measurement(self, baseline: Path, candidate: Path) -> Measurement:
        """Return a measurement without samples of two files."""
        return Measurement(
            created="2026-01-01T00:00:00+00:00",
            batch=1,
            seed=0,
            in_force={},
            plan=SamplingPlan(budget_s=1),
            seconds=1.0,
            stopped="decided",
            conditions=(),
            subjects=tuple(self.subject(path) for path in (baseline, candidate)),
        )

    def subject(self, path: Path) -> SubjectSamples:
        """Return what is known of a file."""
        return SubjectSamples(
            label=path.name,
            path=str(path),
            runtime=self.runtime,
            runtime_version=self.version,
            options={"provider": "CPU"},
            digest=model_files(path, self.runtime).digest,
            input_shapes={"image": (1, 3, 8, 8)},
            threads=self.threads,
            fingerprint=self.machine,
            sessions=(),
        )


def comparison(
    name: str, measurement: Measurement, answer: tuple[Verdict, float], margin: float = 0.03, ratio: float = 1.0
) -> Comparison:
    """Return a comparison with this verdict and p-value."""
    verdict, p_value = answer
    code = {"PASS": "not slower", "FAIL": "slower"}.get(verdict, "budget")
    return Comparison(
        tool_version="0",
        created=measurement.created,
        name=name,
        verdict=verdict,
        reasons=(Reason.model_validate({"code": code, "text": "+1.0% [-1.0%, +3.0%], margin 3.0%: straddles"}),),
        margin=margin,
        metric="cpu",
        ratio=Interval(value=ratio, low=ratio - 0.01, high=ratio + 0.01),
        p_value=p_value,
        baseline=_side(measurement.subjects[0]),
        candidate=_side(measurement.subjects[1]),
        protocol=Protocol(seed=0, budget_s=1, seconds=1, stopped="decided", sessions=4, rounds=9, looks=1),
        noise=Noise(),
    )


def _side(subject: SubjectSamples) -> Side:
    names: Sequence[str] = (
        "label",
        "path",
        "digest",
        "runtime",
        "runtime_version",
        "options",
        "input_shapes",
        "threads",
        "device",
        "fingerprint",
    )
    return Side.model_validate({each: getattr(subject, each) for each in names})
