"""Many models against their baselines: measured one after the other, judged together.

A FAIL takes a test at (1 - level) / 2 for all models together. While one is measured it stops early only for a result
that stands among all of them (Bonferroni); at the end Holm's procedure over all p-values may find more of them slower.
Measuring again after INCONCLUSIVE is one more chance to be wrong: the rate is divided by the tries that are allowed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from pipeline import __version__
from pipeline.core.errors import DeviceError, IncomparableError, InputError, SecateurError
from pipeline.latency.baselines import Baseline, SeriesPoint, changed_terms, history_key, terms_of
from pipeline.latency.compare import compare_files, keep_partial, write_comparison
from pipeline.latency.drift import find_steps, lasting, levels
from pipeline.latency.instructions import compare_instructions
from pipeline.measure.devices import open_device
from pipeline.measure.model_files import accepted_files
from pipeline.measure.regression import holm_correction
from pipeline.results.comparison import Reason
from pipeline.results.gate import Drift, Failure, GateResult, ModelResult, Policy, model_code, overall_code

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pipeline.core.stage import Progress, Runtime
    from pipeline.latency.baselines import BaselineStore
    from pipeline.latency.compare import ComparisonRequest
    from pipeline.latency.gate_config import GatedModel
    from pipeline.results.comparison import Comparison
    from pipeline.results.gate import Check
    from pipeline.results.measurement import Measurement

TRIES = 3
_LEVEL = 0.95
ADVICE = 'accept a new baseline on these terms (--accept), or write machine = "any" if processors change'


class Comparing(Protocol):
    """What measures two files: `compare_on`, or in tests something that returns what was prepared."""

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
        """Compare two files on the device of that name."""


@dataclass(frozen=True)
class Gate:
    """A gate over all models: what to do with an INCONCLUSIVE, what to accept and why, and where results go.

    With `drift` each candidate is measured against the frozen reference, and the series of these ratios is judged.
    `opened` finds the exported file that a model's path stands for in a runtime, such as that of a bundle.
    """

    store: BaselineStore
    config: str
    results: Path
    policy: Policy = "report"
    accept: str | None = None
    refreeze: bool = False
    drift: bool = False
    any_machine: bool = False
    opened: Callable[[Path, Runtime], Path] = lambda path, _: path

    def run(self, models: Sequence[GatedModel], progress: Progress, comparing: Comparing | None = None) -> GateResult:
        """Measure every model, judge them together, and store what is accepted. One that fails stops no other."""
        measured = [self._measured(model, len(models), progress, comparing or compare_on) for model in models]
        judged = self._together([found for found, _ in measured])
        finished = tuple(
            self._finished(model, found, measurement)
            for model, found, (_, measurement) in zip(models, judged, measured, strict=True)
        )
        return GateResult(
            tool_version=__version__,
            created=_now(),
            config=self.config,
            check="drift" if self.drift else "gate",
            inconclusive=self.policy,
            reason=self.accept,
            models=finished,
            exit_code=overall_code(finished),
        )

    @property
    def tries(self) -> int:
        """How often a model may be measured."""
        return TRIES if self.policy == "retry" else 1

    def _measured(
        self, model: GatedModel, models: int, progress: Progress, comparing: Comparing
    ) -> tuple[ModelResult, Measurement | None]:
        found = ModelResult(model=model.name, file=str(model.file), margin=model.question.margin)
        progress.note(f"{model.name}: {model.file}")
        try:
            candidate = self._file(model)
            baseline, expected = self._baseline(model)
            question = replace(
                model.question,
                comparisons=models * self.tries,
                other_sizes=self.accept is not None,
                differs=self._differs(model, expected),
                labels=(str(model.file if baseline == candidate else baseline), str(model.file)),
            )
            for attempt in range(self.tries):
                longer = replace(question, budget_s=question.budget_s * 2**attempt, seed=question.seed + attempt)
                comparison, measurement = comparing(
                    baseline, candidate, longer, name=model.name, device=model.device, progress=progress
                )
                found = found.model_copy(update={"attempts": attempt + 1})
                if comparison.verdict != "INCONCLUSIVE":
                    break
            comparison = write_comparison(comparison, measurement, self.results / model.name)
        except IncomparableError as error:
            reason = Reason(code="differs", text=f"{', '.join(error.fields) or error}; {ADVICE}")
            return found.model_copy(update={"verdict": "INCOMPARABLE", "reasons": (reason,)}), None
        except SecateurError as error:
            if isinstance(error, DeviceError):
                keep_partial(error, self.results / model.name)
            code = error.exit_code if error.exit_code in {5, 6} else InputError.exit_code
            return found.model_copy(update={"failure": Failure(exit_code=code, text=str(error))}), None
        update = {"verdict": comparison.verdict, "reasons": comparison.reasons, "comparison": comparison}
        return found.model_copy(update=update), measurement

    def _file(self, model: GatedModel) -> Path:
        return self.opened(model.file, model.question.runtime)

    def _baseline(self, model: GatedModel) -> tuple[Path, Baseline | None]:
        """Return the file that a model is measured against; without any baseline, while accepting, the model itself.

        Raises:
            InputError: there is none, or the store was changed.
        """
        current = self.store.baselines().get(model.name)
        wanted = self.store.reference(model.name) if self.drift else current
        if wanted is not None:
            return self.store.file(wanted), wanted
        if self.accept:
            return self._file(model), None
        raise InputError(
            f"{model.name} has no baseline in {self.store.folder}; if this file is good, run with "
            '--accept "first baseline"'
        )

    def _differs(self, model: GatedModel, expected: Baseline | None) -> Callable[[Measurement], tuple[str, ...]]:
        def found(measurement: Measurement) -> tuple[str, ...]:
            if expected is None or self.accept:
                return ()
            now = terms_of(measurement, model.question.metric)
            return changed_terms(expected.terms, now, any_machine=self.any_machine)

        return found

    def _together(self, found: Sequence[ModelResult]) -> list[ModelResult]:
        """Return the results with Holm's procedure over all that have a p-value: more may be slower than one by one."""
        tested = [i for i, each in enumerate(found) if each.comparison and not math.isnan(_p_value(each))]
        p_values = [min(1.0, self.tries * _p_value(found[i])) for i in tested]
        slower = {
            i for i, significant in zip(tested, holm_correction(p_values, (1 - _LEVEL) / 2), strict=True) if significant
        }
        return [_fails(each) if i in slower and _only_short(each) else each for i, each in enumerate(found)]

    def _finished(self, model: GatedModel, found: ModelResult, measurement: Measurement | None) -> ModelResult:
        """Add a model to the history, look for drift, and accept it where that was asked for."""
        if measurement:
            found = self._recorded(found)
            if self.accept:
                found = found.model_copy(update={"accepted": self._stored(model, measurement)})
        return found.model_copy(update={"exit_code": model_code(found, self.policy)})

    def _recorded(self, found: ModelResult) -> ModelResult:
        comparison = found.comparison
        if comparison is None or comparison.ratio is None or found.verdict is None:
            return found
        check: Check = "drift" if self.drift else "gate"
        key = history_key(comparison, found.model, check)
        point = SeriesPoint(
            created=comparison.created,
            check=check,
            baseline=comparison.baseline.digest,
            candidate=comparison.candidate.digest,
            verdict=found.verdict,
            reasons=tuple(each.code for each in found.reasons),
            ratio=comparison.ratio,
        )
        self.store.record(key, point)
        return self._drifted(found, key, point.baseline) if self.drift else found

    def _drifted(self, found: ModelResult, key: str, reference: str) -> ModelResult:
        """Return the result of the drift check: the series to the reference decides, not this one measurement."""
        points = [each for each in self.store.history(key) if each.baseline == reference]
        series = [(each.created, each.ratio.value) for each in points]
        steps = find_steps(series)
        means = levels(series, steps)
        stays = lasting(series, steps)
        drift = Drift(
            reference=reference, points=len(series), steps=steps, lasting=stays, total=math.expm1(means[-1] - means[0])
        )
        if stays:
            listed = ", ".join(f"{step.size:+.1%} on {step.created[:10]}" for step in stays)
            reason = Reason(code="drift", text=f"slower than the reference since then: {listed}")
            return found.model_copy(update={"drift": drift, "verdict": "FAIL", "reasons": (reason,)})
        reason = Reason(code="drift", text=f"no lasting step in {len(series)} measurements against the reference")
        return found.model_copy(update={"drift": drift, "verdict": "PASS", "reasons": (reason,)})

    def _stored(self, model: GatedModel, measurement: Measurement) -> str:
        source = accepted_files(self._file(model), model.question.runtime)
        baseline = Baseline(
            model=model.name,
            digest=source.digest,
            files=source.sha256,
            created=_now(),
            reason=self.accept or "",
            reference=self.refreeze,
            terms=terms_of(measurement, model.question.metric),
        )
        self.store.accept(baseline, source)
        return source.digest


def compare_on(
    baseline: Path, candidate: Path, question: ComparisonRequest, *, name: str, device: str, progress: Progress
) -> tuple[Comparison, Measurement]:
    """Compare two files on the device of that name, by time or by instructions."""
    if question.metric == "instructions":
        return compare_instructions(baseline, candidate, question, device=device, name=name, progress=progress)
    devices = () if device == "local" else (open_device(device, note=progress.note),)
    return compare_files(baseline, candidate, question, name=name, devices=devices, progress=progress)


def _p_value(found: ModelResult) -> float:
    value = found.comparison.p_value if found.comparison else None
    return math.nan if value is None else value


def _only_short(found: ModelResult) -> bool:
    """Say whether a model is INCONCLUSIVE for want of measurements alone, and not because they are in doubt."""
    return found.verdict == "INCONCLUSIVE" and {each.code for each in found.reasons} == {"budget"}


def _fails(found: ModelResult) -> ModelResult:
    text = found.reasons[0].text.partition(": ")[0]
    reason = Reason(code="holm", text=f"{text}: slower, by Holm's procedure over all models")
    return found.model_copy(update={"verdict": "FAIL", "reasons": (reason,)})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
