"""A candidate of the search while it is being judged, and as the report shows it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import StageError
from pipeline.core.feeds import sample_count
from pipeline.results.precision import CandidateFile, PrecisionPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from onnx import ModelProto

    from pipeline.compress.quantization.engines.engine import QuantizeRequest
    from pipeline.compress.quantization.names import Scheme
    from pipeline.core.feeds import Feeds
    from pipeline.core.units import ScoreDrop
    from pipeline.precision.evaluation import Evaluation, PairedTime
    from pipeline.precision.targets import TargetFacts
    from pipeline.precision.variant import Variant
    from pipeline.results.precision import LayerChoice, State

FLOAT = "fp32"
#: Accuracies are quotients of whole numbers: a drop of exactly what is allowed must not fail by rounding.
ROUNDING = 1e-9


@dataclass
class SearchCandidate:
    """A candidate while it is being judged; `file` is None when it could not be made.

    `on_integers` are the nodes that could be left in float. `dropped` says why it cannot be chosen, `remark` why it was
    not although it could be, `far` why its outputs are far from those of the float file.
    """

    label: str
    precision: str
    variant: Variant | None = None
    file: Path | None = None
    on_integers: tuple[str, ...] = ()
    decibels: float | None = None
    saturated: float | None = None
    timed: PairedTime | None = None
    dropped: str = ""
    remark: str = ""
    far: str = ""
    missing: bool = False

    @property
    def alive(self) -> bool:
        """Whether it can still be chosen."""
        return self.file is not None and not self.dropped

    @property
    def in_float(self) -> tuple[str, ...]:
        """The nodes that were left in float on purpose, beside those that the recipe keeps."""
        return self.variant.in_float if self.variant else ()


@dataclass(frozen=True)
class SearchProblem:
    """What is searched: the float file, where candidates go, calibration samples, and what is allowed.

    `schemes`, those to try first first, bind static int8, and `request.keep` every candidate. With `inexact_on_arm`
    only files are allowed of which it says nothing: it says why sums differ on ARM.
    """

    given: Path
    folder: Path
    feeds: Feeds
    facts: TargetFacts
    score_drop: ScoreDrop
    budget_s: float
    request: QuantizeRequest
    schemes: tuple[Scheme, ...]
    inexact_on_arm: Callable[[ModelProto], str] | None = None


@dataclass(frozen=True)
class SearchResult:
    """What a search found. The first candidate is the float file; one of them is chosen."""

    chosen: SearchCandidate
    candidates: tuple[SearchCandidate, ...]
    layers: tuple[LayerChoice, ...]


def file_of(tried: SearchCandidate) -> Path:
    """Return a candidate's file. Raises StageError when it could not be made."""
    if tried.file is None:
        raise StageError(f"{tried.label} has no file")
    return tried.file


def speed_of(tried: SearchCandidate) -> float:
    """Return how many times as fast as the float file a candidate is; 0 where it was not timed."""
    return tried.timed.speedup.value if tried.timed and tried.timed.speedup else 0.0


def is_slower(tried: SearchCandidate) -> bool:
    """Say whether a candidate is slower than the float file for certain."""
    return bool(tried.timed and tried.timed.speedup and tried.timed.speedup.high < 1)


def _lost(file: Path, question: SearchProblem, evaluation: Evaluation) -> float:
    """Return by how much a file's score on the validation split is worse than the float file's, in the drop's unit."""
    original = evaluation.score(question.given)
    change = evaluation.score(file) - original
    return question.score_drop.loss(original, -change if evaluation.task.judged.higher_is_better else change)


def is_right(tried: SearchCandidate, question: SearchProblem, evaluation: Evaluation) -> bool:
    """Say whether a file loses no more of its score on the validation split than is allowed."""
    return _lost(file_of(tried), question, evaluation) <= question.score_drop.amount + ROUNDING


def _row_of(
    each: SearchCandidate, chosen: SearchCandidate, question: SearchProblem, evaluation: Evaluation
) -> CandidateFile:
    state, reason = _verdict(each, chosen, question, evaluation)
    variant, file = each.variant, each.file
    return CandidateFile(
        label=each.label,
        state=state,
        reason=reason,
        engine=variant.engine if variant else None,
        precision=each.precision,
        scheme=variant.request.scheme if variant else None,
        calibration=variant.request.calibration if variant else None,
        recovery=variant.recovery if variant else (),
        float_nodes=each.in_float,
        size_bytes=file.stat().st_size if file else None,
        decibels=each.decibels,
        accuracy=evaluation.score(file) if file else None,
        difference=evaluation.difference(question.given, file) if file and file != question.given else None,
        speedup=each.timed.speedup if each.timed else None,
        milliseconds=each.timed.milliseconds if each.timed else None,
        saturated=each.saturated,
    )


def _verdict(
    each: SearchCandidate, chosen: SearchCandidate, question: SearchProblem, evaluation: Evaluation
) -> tuple[State, str]:
    is_float = each.precision == FLOAT
    if each is chosen:
        reason = (
            "nothing else is accurate enough and certainly faster"
            if is_float
            else "the fastest that is accurate enough"
        )
        return "chosen", reason
    if is_float:
        return "kept", "the given file"
    if not each.alive:
        return "missing" if each.missing else "dropped", each.dropped
    lost, allowed = _lost(file_of(each), question, evaluation), question.score_drop
    if lost > allowed.amount + ROUNDING:
        what = f"points of {evaluation.task.judged.name}" if allowed.unit == "pt" else f"{allowed.unit} of the score"
        return "dropped", f"loses {lost:.3g} {what}, allowed: {allowed.amount:g}"
    if is_slower(each):
        return "dropped", "slower than the float file"
    return "kept", each.remark or "not timed"


def plan_of(
    question: SearchProblem,
    evaluation: Evaluation,
    found: SearchResult,
    *,
    moved: Mapping[int, float],
    began: float,
) -> PrecisionPlan:
    """Return everything that a search found, for the report; `began` is when on the monotonic clock."""
    facts, tried = question.facts, found.candidates
    values: dict[str, Any] = {
        "runtime": evaluation.runtime,
        "device": evaluation.target.device,
        "threads": evaluation.target.threads,
        "facts": facts.int8.reason,
        "facts_source": facts.int8.source,
        "flags": tuple(sorted(facts.flags)),
        "accuracy_drop": question.score_drop.amount,
        "drop_unit": question.score_drop.unit,
        "metric": evaluation.task.judged,
        "calibration_images": sample_count(question.feeds),
        "calibration_moved": dict(moved),
        "validation_images": evaluation.task.count("validation"),
        "candidates": tuple(_row_of(each, found.chosen, question, evaluation) for each in tried),
        "layers": found.layers,
        "chosen": next(index for index, each in enumerate(tried) if each is found.chosen),  # two may be equal
        "seconds": time.monotonic() - began,
    }
    return PrecisionPlan(**values)
