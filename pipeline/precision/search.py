"""The search for the file that is fastest on a target within an accuracy budget, which may be the float one.

In order: static int8 of every engine that is installed, with the schemes that suit the processor and the calibration
that leaves least noise, and where all of it is far from the float file, with the guilty layers back in float; the other
precisions that the runtime computes in; all timed together, paired. Then families of nodes that are faster in float go
back, checked in pairs; and where the accuracy is short, it is brought back from cheap to dear: bias correction,
equalization, adaptive rounding, and at last single layers in float, those first that gain most for a millisecond. The
fastest that are right are timed once more, together, against the float file, which ships itself if none of them is
faster for certain.

Choices between calibrations rest on training images that nothing was calibrated on, accuracy on the validation split.
A candidate that cannot be made or run is dropped with the reason; a device that goes away ends the search.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.compress.quantization.engines.engine import missing_engine
from pipeline.compress.quantization.engines.registry import ENGINES
from pipeline.compress.quantization.placement import suspect_nodes
from pipeline.core.nearness import guilty_nodes
from pipeline.precision.candidates import AS_FAST, Candidates, decibels_of
from pipeline.precision.in_float import families_in_float, layers_in_float, settled
from pipeline.precision.problem import SearchCandidate, SearchResult, is_slower, speed_of
from pipeline.precision.variant import LADDER, Variant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.compress.quantization.engines.engine import QuantizeRequest
    from pipeline.compress.quantization.names import Calibration, EngineName, Scheme
    from pipeline.core.stage import Progress
    from pipeline.precision.evaluation import Evaluation
    from pipeline.precision.problem import SearchProblem
    from pipeline.precision.rows import Precision
    from pipeline.results.run import Interval

METHODS: tuple[Calibration, ...] = ("percentile", "mse", "min-max", "entropy")
#: The calibration that every other engine has.
COMMON: Calibration = "min-max"
#: Schemes beyond these are hardly ever the fastest.
_MOST_SCHEMES = 2
#: Shares of the budget: all candidates together; families in float, alone and then together; single layers in float,
#: what they cost and then the file; the last word.
FIRST, FAMILIES, LAYERS, LAST = 0.35, (0.15, 0.1), (0.15, 0.05), 0.2
#: Files that are timed once more: those within this of the fastest, and not more of them than that.
CLOSE, MOST_FINALISTS = 0.05, 4
#: Precisions beside static int8 that may be faster.
OTHERS: dict[Precision, str] = {"fp16": "float16", "int8-dynamic": "dynamic int8", "int8-weights": "int8 weights"}


def search(question: SearchProblem, evaluation: Evaluation, progress: Progress) -> SearchResult:
    """Search, and return the chosen candidate with all that was tried.

    Raises:
        InputError: the float file cannot be read, or its runtime refuses it.
        StageError: the float file's outputs are not finite.
        DeviceError: the target's device cannot be reached, or went away.
    """
    # A float file that does not work fails here: it is no ground for choosing anything.
    evaluation.decibels(question.given, question.given)
    candidates = Candidates(question, evaluation, progress)
    _static(candidates)
    _mend(candidates)
    _other(candidates)
    candidates.time([each for each in candidates.listed if each.alive], FIRST)
    fastest = candidates.best(_int8(candidates))
    if fastest is not None:
        families_in_float(candidates, fastest, FAMILIES)
    _recover(candidates)
    chosen = _last_word(candidates)
    return SearchResult(chosen, tuple(candidates.listed), settled(candidates.layers, chosen))


def _static(candidates: Candidates) -> None:
    """Make static int8 files: every engine, each suitable scheme, and the best calibration of ours."""
    question = candidates.question
    for name, make in ENGINES.items():
        command = missing_engine(make())
        if command or not question.schemes:
            reason = (
                f"not installed: {command}" if command else f"no int8 for this target: {question.facts.int8.reason}"
            )
            row = SearchCandidate(f"{name}, static int8", "int8", dropped=reason, missing=command is not None)
            candidates.listed.append(row)
        elif name == "onnxruntime":
            _onnxruntime(candidates)
        else:
            _engine(candidates, name)


def _onnxruntime(candidates: Candidates) -> None:
    """Try the calibrations with the first scheme that does, and another scheme with the best of them."""
    best: Calibration | None = None
    found = 0
    for scheme in candidates.question.schemes:
        winner = _calibrated(candidates, scheme, METHODS if best is None else (best,))
        if winner is not None and winner.variant is not None:
            best, found = winner.variant.request.calibration, found + 1
        if found == _MOST_SCHEMES:
            return


def _calibrated(candidates: Candidates, scheme: Scheme, methods: Sequence[Calibration]) -> SearchCandidate | None:
    """Return the file whose calibration leaves least noise; the others are dropped.

    What the first one is dropped for lies in the graph or its weights, so that no other calibration would mend it.
    """
    request = replace(candidates.question.request, scheme=scheme)
    good: list[SearchCandidate] = []
    for method in methods:
        made = candidates.add(_variant(candidates, "onnxruntime", replace(request, calibration=method)))
        if made.alive:
            good.append(made)
        elif method == methods[0] and not made.far:
            return None
    if not good:
        return None
    winner = max(good, key=decibels_of)
    for other in good:
        if other is not winner:
            other.dropped = f"{winner.label} has less noise: {winner.decibels:.1f} against {other.decibels:.1f} dB"
    return winner


def _engine(candidates: Candidates, name: EngineName) -> None:
    """Take the first scheme that does. An engine that makes no file of one makes none of another."""
    request = replace(candidates.question.request, calibration=COMMON)
    for scheme in candidates.question.schemes:
        tried = candidates.add(_variant(candidates, name, replace(request, scheme=scheme)))
        if tried.alive or tried.file is None:
            return


def _mend(candidates: Candidates) -> None:
    """Leave guilty nodes in float where every int8 file is far from the float file, in the one nearest to it."""
    made = [each for each in candidates.listed if each.variant is not None]
    far = [each for each in made if each.far]
    if not far or any(each.alive for each in made):
        return
    best = max(far, key=decibels_of)
    variant = best.variant
    assert variant is not None  # noqa: S101 - for the type checker

    def is_near(names: tuple[str, ...]) -> bool:
        tried = candidates.make(variant.keeping(names))
        return tried.file is not None and not tried.far

    guilty = guilty_nodes(suspect_nodes(candidates.model, candidates.question.request.keep), is_near)
    if guilty is not None:
        candidates.add(variant.keeping(guilty), f"{best.label}, in float: {', '.join(guilty)}")


def _variant(candidates: Candidates, engine: EngineName, request: QuantizeRequest) -> Variant:
    return Variant(engine, request, alike=candidates.question.inexact_on_arm is not None)


def _other(candidates: Candidates) -> None:
    """Make files of the other precisions that the runtime computes in on this target.

    One that takes an option of the runtime instead of a file of its own is left out, and so are all where sums must be
    the same on ARM, which is known of static int8 alone.
    """
    for precision, label in OTHERS.items():
        row = candidates.question.facts.precisions.get(precision)
        if row and row.support == "native" and not row.options and not candidates.question.inexact_on_arm:
            candidates.add_other(precision, label)


def _recover(candidates: Candidates) -> None:
    """Bring the accuracy of the fastest int8 file back, if it is short, the file worth it, and nothing else as fast."""
    best = candidates.best(_int8(candidates))
    if best is None or best.variant is None or candidates.is_right(best) or is_slower(best):
        return
    right = [each for each in candidates.rivals() if candidates.is_right(each)]
    if max(map(speed_of, right), default=0.0) >= speed_of(best) * (1 - AS_FAST):
        return
    nearest = best
    for recovery in LADDER:
        tried = candidates.add(best.variant.recovered(recovery), ", ".join((best.label, *recovery)))
        if not tried.alive:
            continue
        tried.timed = best.timed  # the same graph with other numbers in it; what ships is timed again
        if candidates.is_right(tried):
            return
        nearest = max(nearest, tried, key=decibels_of)
    layers_in_float(candidates, best, nearest, LAYERS)


def _last_word(candidates: Candidates) -> SearchCandidate:
    """Time the fastest files that are right once more, together, and choose: float unless one is faster for certain."""
    right = [each for each in candidates.rivals() if candidates.is_right(each)]
    ordered = sorted((each for each in right if not is_slower(each)), key=speed_of, reverse=True)
    finalists = [each for each in ordered if speed_of(each) >= speed_of(ordered[0]) * (1 - CLOSE)][:MOST_FINALISTS]
    candidates.time([candidates.original, *finalists], LAST)
    for each in finalists:
        gain = each.timed.speedup if each.timed else None
        if each.alive and not (gain and gain.low > 1):
            each.dropped = f"not certainly faster than the float file: {_span(gain)}"
    chosen = candidates.best(each for each in finalists if each.alive)
    for each in right:
        level = chosen and speed_of(each) >= speed_of(chosen) * (1 - AS_FAST) and each in finalists
        each.remark = "no faster than the chosen one, and no more accurate" if level else "slower than the fastest"
    return chosen or candidates.original


def _span(gain: Interval | None) -> str:
    return f"{gain.value:.3f}x [{gain.low:.3f}, {gain.high:.3f}]" if gain else "not timed"


def _int8(candidates: Candidates) -> list[SearchCandidate]:
    return [each for each in candidates.rivals() if each.variant is not None]
