"""A candidate of the search while it is being judged, and as the report shows it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import StageError
from pipeline.core.precision import CandidateFile, PrecisionPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto

    from pipeline.compress.quantization.engine import Request, Scheme
    from pipeline.core.precision import LayerChoice, State
    from pipeline.precision.evaluation import Evaluation, Timed
    from pipeline.precision.targets import TargetFacts
    from pipeline.precision.variant import Variant

FLOAT = "fp32"


@dataclass
class Tried:
    """A candidate while it is being judged; `file` is None when it could not be made."""

    label: str
    precision: str
    variant: Variant | None = None
    file: Path | None = None
    float_nodes: tuple[str, ...] = ()
    on_integers: tuple[str, ...] = ()
    decibels: float | None = None
    saturated: float | None = None
    timed: Timed | None = None
    dropped: str = ""
    missing: bool = False

    @property
    def alive(self) -> bool:
        """Whether it can still be chosen."""
        return self.file is not None and not self.dropped


@dataclass(frozen=True)
class Question:
    """What is searched: the float file, where candidates go, calibration images, and what is allowed.

    `schemes` and `keep` bind static int8; `exact_on_arm` allows only files that compute the same sums on ARM.
    """

    given: Path
    folder: Path
    samples_NCHW: NDArray[np.float32]
    facts: TargetFacts
    accuracy_drop: float
    budget_s: float
    request: Request
    schemes: tuple[Scheme, ...]
    is_exact_on_arm: Callable[[ModelProto], str] | None = None


def file_of(tried: Tried) -> Path:
    """Return a candidate's file. Raises StageError when it could not be made."""
    if tried.file is None:
        raise StageError(f"{tried.label} has no file")
    return tried.file


def speed_of(tried: Tried) -> float:
    """Return how many times as fast as the float file a candidate is; 0 where it was not timed."""
    return tried.timed.speedup.value if tried.timed and tried.timed.speedup else 0.0


def is_right(tried: Tried, question: Question, evaluation: Evaluation) -> bool:
    """Say whether a file loses no more accuracy on the validation split than is allowed."""
    lost = evaluation.accuracy(question.given) - evaluation.accuracy(file_of(tried))
    return 100 * lost <= question.accuracy_drop + 1e-9


def row_of(each: Tried, chosen: Tried, question: Question, evaluation: Evaluation) -> CandidateFile:
    """Return a candidate as the report shows it."""
    right = each.file is not None and is_right(each, question, evaluation)
    is_float = each.precision == FLOAT
    state: State = "chosen" if each is chosen else "missing" if each.missing else "dropped"
    reason = each.dropped
    if each is chosen:
        reason = "nothing else is accurate enough and faster for certain" if is_float else "the fastest that is right"
    elif not reason and not right:
        reason = f"loses more than {question.accuracy_drop:g} points of accuracy"
    elif not reason:
        state, reason = "kept", "the file that was given" if is_float else "slower than the chosen one"
    variant, file = each.variant, each.file
    return CandidateFile(
        label=each.label,
        state=state,
        reason=reason
        or ("slower than the chosen one" if each.variant or each.precision != FLOAT else "the file that was given"),
        engine=variant.engine if variant else None,
        precision=each.precision,
        scheme=variant.request.scheme if variant else None,
        calibration=variant.request.calibration if variant else None,
        recovery=variant.recovery if variant else (),
        float_nodes=each.float_nodes,
        size_bytes=file.stat().st_size if file else None,
        decibels=each.decibels,
        accuracy=evaluation.accuracy(file) if file else None,
        difference=evaluation.difference(question.given, file) if file and file != question.given else None,
        speedup=each.timed.speedup if each.timed else None,
        milliseconds=each.timed.milliseconds if each.timed else None,
        saturated=each.saturated,
    )


def plan_of(
    question: Question,
    evaluation: Evaluation,
    tried: Sequence[Tried],
    layers: Sequence[LayerChoice],
    *,
    chosen: Tried,
    moved: Mapping[int, float],
    began: float,
) -> PrecisionPlan:
    """Return everything that a search found, for the report."""
    facts = question.facts
    values: dict[str, Any] = {
        "runtime": evaluation.runtime,
        "device": evaluation.target.device,
        "threads": evaluation.target.threads,
        "facts": facts.int8.reason,
        "facts_source": facts.int8.source,
        "flags": tuple(sorted(facts.flags)),
        "accuracy_drop": question.accuracy_drop,
        "calibration_images": len(question.samples_NCHW),
        "calibration_moved": dict(moved),
        "validation_images": len(evaluation.labels),
        "candidates": tuple(row_of(each, chosen, question, evaluation) for each in tried),
        "layers": tuple(layers),
        "chosen": list(map(id, tried)).index(id(chosen)),
        "seconds": time.monotonic() - began,
    }
    return PrecisionPlan(**values)
