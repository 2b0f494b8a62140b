"""Is the candidate slower than the baseline? Two files, measured side by side, and one verdict."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline import __version__
from pipeline.core.errors import DeviceError, IncomparableError, InputError
from pipeline.core.partial import write_whole
from pipeline.core.runtimes import DEFAULT_RUNTIME
from pipeline.latency.noise import invisible_margin, known_noise, with_floor
from pipeline.latency.rooflines import with_rooflines
from pipeline.measure.harness import measure_subjects
from pipeline.measure.model_files import model_files
from pipeline.measure.regression import Decision, decide_verdict
from pipeline.measure.statistics import latency_distribution, preempted_share
from pipeline.measure.subjects import MeasureTerms, Subject
from pipeline.results.comparison import (
    RESULT_FILE,
    ROUNDS_FILE,
    Comparison,
    Noise,
    Protocol,
    RawRounds,
    Reason,
    Side,
    load_comparison,
)
from pipeline.results.measurement import (
    INPUT_SHAPES,
    Measurement,
    SamplingPlan,
    SubjectSamples,
    load_measurement,
    save_measurement,
    term_differences,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pipeline.core.stage import Progress, Runtime
    from pipeline.latency.noise import KnownNoise
    from pipeline.measure.devices import Device
    from pipeline.results.comparison import Metric
    from pipeline.results.measurement import Stop

PARTIAL_FILE = "partial.json"


@dataclass(frozen=True)
class ComparisonRequest:
    """What is asked, and on what terms.

    `runtime_b`, `threads_b` and the second device are the candidate's where they differ from the baseline's; unless it
    is a question about two runtimes, differences make the two incomparable. `tolerance` is relative to the baseline's
    largest output; None allows any finite outputs of the same shape. `comparisons` are asked together with this one.
    `roofline` says what limits each side; a device is probed for that once. `differs` may name further fields in which
    a measurement is not on the terms that it should be. `labels` are what the two sides are called where their paths
    say less, as for a file out of a bundle. With `other_sizes` the candidate may take images of another size, which is
    marked as unfair.
    """

    margin: float = 0.03
    budget_s: float = 30.0
    metric: Metric | None = None
    tolerance: float | None = 0.1
    runtime: Runtime = DEFAULT_RUNTIME
    runtime_b: Runtime | None = None
    threads_b: int | None = None
    terms: MeasureTerms = field(default_factory=lambda: MeasureTerms(threads=1, batch=1))
    comparisons: int = 1
    force: bool = False
    other_sizes: bool = False
    seed: int = 0
    roofline: bool = True
    differs: Callable[[Measurement], tuple[str, ...]] | None = None
    labels: tuple[str, str] | None = None


def compare_files(
    baseline: Path,
    candidate: Path,
    question: ComparisonRequest,
    *,
    name: str = "",
    devices: Sequence[Device] = (),
    progress: Progress | None = None,
) -> tuple[Comparison, Measurement]:
    """Measure two files side by side and say PASS, FAIL or INCONCLUSIVE, with the rounds that it rests on.

    Where doctor has examined the device, no error is taken to be less than its copies showed after as long a time.

    Raises:
        InputError: a file cannot be used, or an emulator is asked for time.
        IncomparableError: the two are not on equal terms; the message names the fields. Or the device cannot see the
            margin, as doctor found.
        OutputsError: their outputs differ by more than the tolerance.
        DeviceError: a device cannot be reached, or went away in the middle: then `partial` has what was measured.
    """
    if any(device.emulated for device in devices):
        raise InputError(
            f"{devices[0].url} is emulated: its time means nothing for a real processor; use --metric instructions"
        )
    plan = SamplingPlan(budget_s=question.budget_s, strict=True, comparisons=question.comparisons)
    subjects = two_subjects(baseline, candidate, question, devices=len(devices))
    terms = _Terms(question)

    def stop(measurement: Measurement) -> Stop | None:
        found = decide_verdict(with_floor(measurement, terms.noise), margin=question.margin, metric=question.metric)
        return "decided" if found.verdict in {"PASS", "FAIL"} else None

    measurement = measure_subjects(
        subjects,
        question.terms,
        plan,
        seed=question.seed,
        devices=devices,
        stop=stop,
        ready=terms.allow,
        progress=progress,
    )
    measurement = with_floor(measurement, terms.noise)
    decision = decide_verdict(measurement, margin=question.margin, metric=question.metric)
    found = terms.noted(comparison_of(measurement, decision, question, name or candidate.stem, terms.unfair))
    if question.roofline:
        found = with_rooflines(found, measurement, (baseline, candidate), devices=devices, progress=progress)
    return found, measurement


class _Terms:
    """On what terms two sides are compared, known when their devices have answered: what is unfair, and the noise."""

    def __init__(self, question: ComparisonRequest) -> None:
        self.question = question
        self.noise: KnownNoise | None = None
        self.unfair: tuple[str, ...] = ()
        self.invisible: str | None = None

    def allow(self, measurement: Measurement) -> None:
        """Take note of both; raises IncomparableError for what nobody forced."""
        question = self.question
        self.unfair = allowed_differences(measurement, question)
        self.noise = known_noise(measurement, question.metric)
        self.invisible = invisible_margin(self.noise, question.margin, question.budget_s, force=question.force)

    def noted(self, found: Comparison) -> Comparison:
        """Return the comparison with the device's noise, and marked as unfair where it cannot see the margin."""
        if self.noise:
            noise = found.noise.model_copy(update={"aa_q95": self.noise.q95})
            found = found.model_copy(update={"noise": noise})
        if self.invisible:
            reason = Reason(code="unfair", text=f"forced, although {self.invisible}")
            found = found.model_copy(update={"unfair": True, "reasons": (*found.reasons, reason)})
        return found


def write_comparison(comparison: Comparison, measurement: Measurement, folder: Path) -> Comparison:
    """Write comparison.json and the rounds next to it; return the comparison with the rounds' hash.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rounds = folder / ROUNDS_FILE
    save_measurement(measurement, rounds)
    with suppress(FileNotFoundError):
        (folder / PARTIAL_FILE).unlink()
    raw = RawRounds(path=ROUNDS_FILE, sha256=hashlib.sha256(rounds.read_bytes()).hexdigest())
    kept = comparison.model_copy(update={"raw": raw})
    write_whole(folder / RESULT_FILE, kept.model_dump_json(indent=1) + "\n")
    return kept


def read_comparison(folder: Path) -> tuple[Comparison, Measurement]:
    """Return a stored comparison with its rounds.

    Raises:
        InputError: one of the files is missing or damaged, or the rounds are not those that it was made of.
    """
    found = load_comparison(folder / RESULT_FILE)
    rounds = folder / ROUNDS_FILE
    measurement = load_measurement(rounds)
    if found.raw is None or hashlib.sha256(rounds.read_bytes()).hexdigest() != found.raw.sha256:
        raise InputError(f"{rounds} was changed since {folder / RESULT_FILE} was written (sha256); compare again")
    return found, measurement


def keep_partial(error: DeviceError, folder: Path) -> Path | None:
    """Write what was measured before a device went away; return its file, or None when there was nothing."""
    if not isinstance(error.partial, Measurement):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    save_measurement(error.partial, folder / PARTIAL_FILE)
    return folder / PARTIAL_FILE


def two_subjects(baseline: Path, candidate: Path, question: ComparisonRequest, *, devices: int) -> list[Subject]:
    """Return the two sides; the candidate is on the second device where there is one."""
    runtime_b = question.runtime_b or question.runtime
    labels = question.labels or (str(baseline), str(candidate))
    return [
        Subject(labels[0], question.runtime, baseline, model_files(baseline, question.runtime).digest),
        Subject(
            labels[1],
            runtime_b,
            candidate,
            model_files(candidate, runtime_b).digest,
            tolerance=question.tolerance,
            threads=question.threads_b,
            device=1 if devices > 1 else 0,
        ),
    ]


def allowed_differences(measurement: Measurement, question: ComparisonRequest) -> tuple[str, ...]:
    """Return the fields that differ where that was forced.

    Raises:
        IncomparableError: fields differ and nobody forced it.
    """
    found = term_differences(measurement, between_runtimes=question.runtime_b is not None)
    found += question.differs(measurement) if question.differs else ()
    refused = [each for each in found if not (question.other_sizes and each.startswith(INPUT_SHAPES))]
    if refused and not question.force:
        listed = "\n  ".join(found)
        error = IncomparableError(
            f"INCOMPARABLE: the two sides differ in\n  {listed}\nmeasure both on equal terms; --force compares them "
            "anyway and marks the result as unfair"
        )
        error.fields = found
        raise error
    return found


def comparison_of(
    measurement: Measurement, decision: Decision, question: ComparisonRequest, name: str, unfair: Sequence[str] = ()
) -> Comparison:
    """Return the result for a decision over the first two subjects; `unfair` are the differences that were forced."""
    a, b = measurement.subjects[:2]
    reasons = decision.reasons
    if unfair:
        reasons = (*reasons, Reason(code="unfair", text="forced although they differ in " + "; ".join(unfair)))
    return Comparison(
        tool_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        name=name,
        verdict=decision.verdict,
        reasons=reasons,
        unfair=bool(unfair),
        margin=question.margin,
        metric=decision.clock,
        ratio=decision.ratio,
        wall=decision.wall,
        cpu=decision.cpu,
        p_value=decision.p_value,
        detectable=decision.detectable,
        baseline=side(measurement, 0),
        candidate=side(measurement, 1),
        output_check=b.check,
        protocol=protocol(measurement),
        noise=Noise(
            preempted_share=max(preempted_share(a), preempted_share(b)) if a.sessions else None,
            standard_error=decision.error,
            conditions=measurement.conditions,
        ),
    )


def side(measurement: Measurement, index: int) -> Side:
    """Return what a result says of one subject."""
    subject = measurement.subjects[index]
    shared = Side.model_fields.keys() & SubjectSamples.model_fields.keys()
    return Side(
        **{name: getattr(subject, name) for name in shared},
        load_ms=min((each.load_ns / 1e6 for each in subject.sessions), default=None),
        first_ms=min((each.first_ns / 1e6 for each in subject.sessions), default=None),
        instructions_per_inference=min(map(min, subject.instructions), default=None),
        wall_ns=latency_distribution(subject, "wall") if subject.sessions else None,
        cpu_ns=latency_distribution(subject, "cpu") if subject.sessions else None,
    )


def protocol(measurement: Measurement) -> Protocol:
    """Return how a measurement was made."""
    sessions = measurement.subjects[0].sessions
    return Protocol(
        seed=measurement.seed,
        budget_s=measurement.plan.budget_s,
        seconds=measurement.seconds,
        stopped=measurement.stopped,
        sessions=len(sessions),
        rounds=sum(len(each.rounds) for each in sessions),
        looks=measurement.plan.looks,
        pause_ms=measurement.pause_ns / 1e6,
        batch=measurement.batch,
        in_force=measurement.in_force,
    )
