"""Candidates of the search: made, judged without a clock, timed together, and listed whatever becomes of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.compress.quantization.integer_layers import integer_layers
from pipeline.compress.quantization.saturation import count_saturation
from pipeline.core.errors import InputError, StageError
from pipeline.core.feeds import take_samples
from pipeline.onnx_graph.file import finish_model, read_onnx, write_onnx
from pipeline.precision.problem import FLOAT, SearchCandidate, file_of, is_right, speed_of
from pipeline.precision.variant import build, other_precision

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnx import ModelProto

    from pipeline.core.stage import Progress
    from pipeline.precision.evaluation import Evaluation, PairedTime
    from pipeline.precision.problem import SearchProblem
    from pipeline.precision.rows import Precision
    from pipeline.precision.variant import Variant
    from pipeline.results.precision import LayerChoice
    from pipeline.results.run import Interval

#: Two files within this are equally fast: the more accurate one is taken.
AS_FAST = 0.01
_SATURATION_IMAGES = 8


@dataclass
class Candidates:
    """All candidates of one search, the float file first, and the layers that were tried in float.

    Raises InputError when the float file cannot be read.
    """

    question: SearchProblem
    evaluation: Evaluation
    progress: Progress
    listed: list[SearchCandidate] = field(default_factory=list)
    layers: list[LayerChoice] = field(default_factory=list)
    _made: int = 0

    def __post_init__(self) -> None:
        """Read the float file and list it."""
        self.question.folder.mkdir(parents=True, exist_ok=True)
        self.model = read_onnx(self.question.given)
        self.original = SearchCandidate("FP32", FLOAT, file=self.question.given)
        self.listed.append(self.original)

    def add(self, variant: Variant, label: str = "") -> SearchCandidate:
        """Make a static int8 file and list it."""
        tried = self.make(variant, label)
        self.listed.append(tried)
        return tried

    def make(self, variant: Variant, label: str = "", *, images: int | None = None) -> SearchCandidate:
        """Build, write and judge a static int8 file; what fails is dropped with the reason. It is not listed.

        With `images` it is calibrated on only that many: enough to time it, or to compare it with its like.
        """
        request = variant.request
        words = label or ", ".join((variant.engine, request.scheme, request.calibration, *variant.recovery))
        tried = SearchCandidate(words, "mixed" if variant.in_float else "int8", variant)
        self.progress.update(len(self.listed), len(self.listed) + 4, f"quantizing: {tried.label}")
        try:
            quantized = build(self.model, take_samples(self.question.feeds, slice(images)), variant, self.progress)
        except (InputError, StageError) as error:
            tried.dropped = str(error)
            return tried
        there = {node.name for node in quantized.model.graph.node if node.name} - {*quantized.float_nodes}
        tried.on_integers = tuple(node.name for node in self.model.graph.node if node.name in there)
        self._judge(tried, quantized.model, trial=images is not None)
        if tried.alive:
            self._check_sums(tried, quantized.model)
        return tried

    def add_other(self, precision: Precision, label: str) -> SearchCandidate:
        """Make a file of another precision and list it."""
        question = self.question
        tried = SearchCandidate(label, precision)
        self.listed.append(tried)
        try:
            model = other_precision(self.model, precision, reduced=question.facts.saturates, keep=question.request.keep)
        except InputError as error:
            tried.dropped = str(error)
        else:
            self._judge(tried, model)
        return tried

    def time(self, files: Sequence[SearchCandidate], share: float) -> None:
        """Time files against the first, which is the float file, with a share of the budget; what is refused drops."""
        for each, timed in self._timed(files, share):
            each.timed = timed

    def against(self, base: SearchCandidate, others: Sequence[SearchCandidate], share: float) -> list[Interval | None]:
        """Return the paired speedup of each file over `base`; None where the device's runtime refuses it."""
        found = {id(each): timed.speedup for each, timed in self._timed((base, *others), share)}
        return [found.get(id(each)) for each in others]

    def rivals(self) -> list[SearchCandidate]:
        """Return the candidates that were timed and may still be chosen."""
        return [each for each in self.listed[1:] if each.alive and speed_of(each)]

    def best(self, files: Iterable[SearchCandidate]) -> SearchCandidate | None:
        """Return the fastest file; of those that are as fast the most accurate, then that with least noise."""
        ordered = sorted(files, key=speed_of, reverse=True)
        level = [each for each in ordered if speed_of(each) >= speed_of(ordered[0]) * (1 - AS_FAST)]
        return max(level, key=self._rank, default=None)

    def is_right(self, each: SearchCandidate) -> bool:
        """Say whether a file loses no more accuracy than is allowed."""
        return is_right(each, self.question, self.evaluation)

    def _rank(self, each: SearchCandidate) -> tuple[float, float]:
        score = self.evaluation.score(file_of(each))
        return score if self.evaluation.task.judged.higher_is_better else -score, decibels_of(each)

    def _judge(self, tried: SearchCandidate, model: ModelProto, *, trial: bool = False) -> None:
        """Write a candidate and say how much noise it has; one that the runtime cannot run is dropped.

        So is one that is far from the float file, unless it is but a trial.
        """
        file = self.question.folder / f"{self._made:03d}.onnx"
        self._made += 1
        write_onnx(finish_model(model), file)
        try:
            tried.decibels = self.evaluation.decibels(self.question.given, file)
            tried.far = "" if trial else self.evaluation.far(file)
        except (InputError, StageError) as error:
            tried.dropped = str(error)
        else:
            tried.file, tried.dropped = file, tried.far

    def _check_sums(self, tried: SearchCandidate, model: ModelProto) -> None:
        """Count sums that a CPU without VNNI would clip, and drop the file where that CPU is the target."""
        question = self.question
        if not integer_layers(model):
            tried.dropped = "none of its convolutions and matrix products would run on integers"
            return
        found = count_saturation(model, take_samples(question.feeds, slice(_SATURATION_IMAGES)))
        tried.saturated = found.saturated / found.images
        if question.facts.saturates and found.saturated:
            tried.dropped = f"{tried.saturated:.3g} sums per image would be clipped to 16 bits on the target"
        elif question.inexact_on_arm:
            tried.dropped = question.inexact_on_arm(model)

    def _timed(self, files: Sequence[SearchCandidate], share: float) -> list[tuple[SearchCandidate, PairedTime]]:
        """Time files; those that the device's runtime refuses are dropped with the reason, the others timed."""
        if len(files) < 2:  # noqa: PLR2004 - a pair
            return []
        paths = [file_of(each) for each in files]
        try:
            found = self.evaluation.timed(paths, share * self.question.budget_s)
        except (InputError, StageError):
            reasons = self.evaluation.refusals(paths)
            if not any(reasons):
                raise
            for each, reason in zip(files, reasons, strict=True):
                each.dropped = each.dropped or reason
            return self._timed([each for each, reason in zip(files, reasons, strict=True) if not reason], share)
        return list(zip(files, found, strict=True))


def decibels_of(tried: SearchCandidate) -> float:
    """Return a candidate's signal-to-noise ratio; the float file has no noise."""
    return float("inf") if tried.decibels is None else tried.decibels
