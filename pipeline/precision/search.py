"""The search for the file that is fastest on a target within an accuracy budget, which may be the float one.

In order: static int8 of every engine that is installed, with the schemes that suit the processor and the calibration
that leaves least noise; the other precisions that the runtime computes in; all timed together, paired. Then families of
nodes that are faster in float go back, checked in pairs; and where the accuracy is short, it is brought back from cheap
to dear: bias correction, equalization, adaptive rounding, and at last single layers in float, those first that gain
most for a millisecond. What ships is timed once more against the float file, which ships itself if that is no slower.

Choices between calibrations rest on training images that nothing was calibrated on, accuracy on the validation split.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pipeline.compress.quantization.engine import missing
from pipeline.compress.quantization.engines import ENGINES
from pipeline.compress.quantization.saturation import saturation
from pipeline.core.errors import InputError, StageError
from pipeline.core.precision import LayerChoice
from pipeline.export.noise import own_layer_sqnr
from pipeline.export.onnx_file import finish, read_onnx, write_onnx
from pipeline.precision.families import families
from pipeline.precision.tried import Tried, file_of, is_right, speed_of
from pipeline.precision.variant import LADDER, Variant, build, other_precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto

    from pipeline.compress.quantization.engine import Calibration, EngineName
    from pipeline.core.run import Interval
    from pipeline.core.stage import Progress
    from pipeline.precision.evaluation import Evaluation
    from pipeline.precision.rows import Precision
    from pipeline.precision.tried import Question

METHODS: tuple[Calibration, ...] = ("percentile", "mse", "min-max", "entropy")
#: Schemes beyond these are hardly ever the fastest.
MOST_SCHEMES = 2
#: Shares of the budget: all candidates together, families in float, single layers in float, and the last word.
FIRST, FAMILIES, LAYERS, LAST = 0.35, 0.25, 0.2, 0.2
#: Layers that are tried in float, those with most noise of their own first.
MOST_LAYERS = 8
#: Two files within this are equally fast: the more accurate one is taken.
AS_FAST = 0.01
SATURATION_IMAGES = 8
#: Precisions beside static int8 that may be faster.
OTHERS: dict[Precision, str] = {"fp16": "float16", "int8-dynamic": "dynamic int8", "int8-weights": "int8 weights"}


@dataclass
class Search:
    """One search: call `run`."""

    question: Question
    evaluation: Evaluation
    progress: Progress
    tried: list[Tried] = field(default_factory=list)
    layers: list[LayerChoice] = field(default_factory=list)

    def run(self) -> Tried:
        """Return the chosen candidate; `tried` has all of them, `layers` what was tried in float."""
        self.question.folder.mkdir(parents=True, exist_ok=True)
        self.model = read_onnx(self.question.given)
        self.original = Tried("FP32", "fp32", file=self.question.given, decibels=None)
        self.tried.append(self.original)
        self._static()
        self._other()
        self._time()
        self._families()
        self._recover()
        return self._finish()

    def _static(self) -> None:
        """Make static int8 files: every engine, each suitable scheme, and the best calibration of ours."""
        self._onnxruntime()
        for name in ENGINES:
            if name == "onnxruntime":
                continue
            command = missing(ENGINES[name]())
            if command:
                label = f"{name}, static int8"
                self.tried.append(Tried(label, "int8", dropped=f"not installed: {command}", missing=True))
                continue
            self._engine(name)

    def _onnxruntime(self) -> None:
        """Try the calibrations with the first scheme, and the others with the best calibration."""
        request = self.question.request
        best: Calibration = request.calibration
        for place, scheme in enumerate(self.question.schemes[:MOST_SCHEMES]):
            methods = METHODS if place == 0 else (best,)
            made = [
                self._add(Variant("onnxruntime", replace(request, scheme=scheme, calibration=method)))
                for method in methods
            ]
            good = [each for each in made if each.alive]
            if not good:
                continue
            winner = max(good, key=lambda each: each.decibels or 0.0)
            best = winner.variant.request.calibration if winner.variant else best
            for other in good:
                if other is not winner:
                    other.dropped = (
                        f"{best} calibration leaves less noise: {winner.decibels:.1f} against {other.decibels:.1f} dB"
                    )

    def _engine(self, name: EngineName) -> None:
        """Take the first scheme and calibration that an engine can do, the engine's own default first."""
        refused = ""
        for scheme in self.question.schemes:
            for method in ("min-max", "percentile"):
                request = replace(self.question.request, scheme=scheme, calibration=method)
                tried = self._make(Variant(name, request))
                if tried.file is not None:
                    self.tried.append(tried)
                    return
                refused = tried.dropped
        self.tried.append(Tried(f"{name}, static int8", "int8", dropped=refused))

    def _add(self, variant: Variant) -> Tried:
        tried = self._make(variant)
        self.tried.append(tried)
        return tried

    def _make(self, variant: Variant) -> Tried:
        """Build, write and judge one static int8 file; what fails is dropped with the reason."""
        request = variant.request
        kept = [name for name in request.keep if name not in self.question.request.keep]
        parts = [variant.engine, request.scheme, request.calibration, *variant.recovery]
        tried = Tried(
            ", ".join(parts) + (f", {len(kept)} in float" if kept else ""), "mixed" if kept else "int8", variant
        )
        tried.float_nodes = tuple(kept)
        self.progress.update(len(self.tried), len(self.tried) + 4, f"quantizing: {tried.label}")
        try:
            quantized = build(self.model, self.question.samples_NCHW, variant, self.progress)
        except (InputError, StageError) as error:
            tried.dropped = str(error)
            return tried
        there = {node.name for node in quantized.model.graph.node} - {*quantized.float_nodes}
        tried.on_integers = tuple(node.name for node in self.model.graph.node if node.name in there)
        return self._judged(tried, quantized.model)

    def _judged(self, tried: Tried, model: ModelProto) -> Tried:
        """Write a candidate and say how much noise it has and whether it saturates."""
        question = self.question
        file = question.folder / f"{len(list(question.folder.iterdir())):02d}.onnx"
        write_onnx(finish(model), file)
        tried.file = file
        try:
            tried.decibels = self.evaluation.decibels(question.given, file)
        except InputError as error:  # the runtime refuses the file
            tried.dropped, tried.file = str(error), None
            return tried
        if tried.precision in {"int8", "mixed"}:
            self._check_sums(tried, model)
        return tried

    def _check_sums(self, tried: Tried, model: ModelProto) -> None:
        """Count sums that a CPU without VNNI would clip, and drop the file where that CPU is the target."""
        found = saturation(model, self.question.samples_NCHW[:SATURATION_IMAGES])
        tried.saturated = found.saturated / max(found.images, 1)
        if self.question.facts.saturates and found.saturated:
            tried.dropped = f"{tried.saturated:.0f} sums an image are clipped to 16 bits on this CPU: reduce the range"
        elif self.question.is_exact_on_arm:
            tried.dropped = self.question.is_exact_on_arm(model)

    def _other(self) -> None:
        """Make files of the other precisions that the runtime computes in on this target."""
        for precision, label in OTHERS.items():
            row = self.question.facts.precisions.get(precision)
            if row is None or row.support != "native" or self.question.is_exact_on_arm:
                continue
            tried = Tried(label, precision)
            try:
                self.tried.append(self._judged(tried, other_precision(self.model, precision)))
            except InputError as error:
                tried.dropped = str(error)
                self.tried.append(tried)

    def _time(self) -> None:
        """Time all that are left together, and drop what is slower than float for certain."""
        rivals = [each for each in self.tried[1:] if each.alive]
        self._timed([self.original, *rivals], FIRST)

    def _timed(self, files: Sequence[Tried], share: float) -> None:
        if len(files) > 1:
            found = self.evaluation.timed([file_of(each) for each in files], share * self.question.budget_s)
            for each, timed in zip(files, found, strict=True):
                each.timed = timed

    def _families(self) -> None:
        """Leave in float what is faster so: each family alone against the fastest int8 file, then all that gained."""
        best = self._fastest(self._int8())
        if best is None or best.variant is None:
            return
        groups = families(self.model, best.on_integers)
        made = {name: self._make(best.variant.keeping(nodes)) for name, nodes in groups.items()}
        made = {name: each for name, each in made.items() if each.alive}
        gains = self._against(best, list(made.values()), FAMILIES * 0.6)
        gained = [name for name, gain in zip(made, gains, strict=True) if gain.low > 1]
        for name, gain in zip(made, gains, strict=True):
            faster = gain.low > 1
            reason = "faster in float" if faster else "slower in float" if gain.high < 1 else "no difference shown"
            self.layers.append(
                LayerChoice(name=name, nodes=groups[name], speedup=gain, left_in_float=faster, reason=reason)
            )
        if not gained:
            return
        together = tuple(dict.fromkeys(node for name in gained for node in groups[name]))
        mixed = made[gained[0]] if len(gained) == 1 else self._make(best.variant.keeping(together))
        rivals = [mixed, *(made[name] for name in gained)] if len(gained) > 1 else [mixed]
        rivals = [each for each in rivals if each.alive]
        self._timed([self.original, best, *rivals], FAMILIES * 0.4)
        self.tried.extend(rivals)

    def _against(self, base: Tried, others: Sequence[Tried], share: float) -> list[Interval]:
        """Return the paired speedup of each file over `base`."""
        if not others:
            return []
        found = self.evaluation.timed([file_of(each) for each in (base, *others)], share * self.question.budget_s)
        return [each.speedup for each in found[1:] if each.speedup is not None]

    def _recover(self) -> None:
        """Bring the accuracy of the fastest int8 file back, as far as it is short."""
        best = self._fastest(self._int8())
        if best is None or best.variant is None or self._is_right(best):
            return
        right = self._fastest([each for each in self._candidates() if self._is_right(each)])
        if right is not None and speed_of(right) >= speed_of(best) * (1 - AS_FAST):
            return
        nearest = best
        for recovery in LADDER:
            tried = self._add(best.variant.recovered(recovery))
            if tried.alive:
                tried.timed = best.timed  # the same graph with other numbers in it; the winner is timed again
                if self._is_right(tried):
                    return
                nearest = max(nearest, tried, key=lambda each: each.decibels or 0.0)
        self._layers(nearest)

    def _layers(self, best: Tried) -> None:
        """Leave single layers in float until the accuracy is there: most noise taken away for a millisecond first."""
        assert best.variant is not None  # noqa: S101 - for the type checker
        own = own_layer_sqnr(self.question.given, file_of(best), self.evaluation.held_out_NCHW[:16])
        noisy = sorted((name for name in own if name in best.on_integers), key=lambda name: own[name])[:MOST_LAYERS]
        made = {name: self._make(best.variant.keeping((name,))) for name in noisy}
        made = {name: each for name, each in made.items() if each.alive}
        costs = self._against(best, list(made.values()), LAYERS)
        worth: dict[str, float] = {}
        for (name, each), cost in zip(made.items(), costs, strict=True):
            gained = (each.decibels or 0.0) - (best.decibels or 0.0)
            worth[name] = gained / max(1 / cost.value - 1, 1e-3)
            self.layers.append(
                LayerChoice(
                    name=name, nodes=(name,), decibels_gained=gained, speedup=cost, left_in_float=False, reason="tried"
                )
            )
        kept: list[str] = []
        for name in sorted((name for name in worth if worth[name] > 0), key=lambda name: -worth[name]):
            kept.append(name)
            tried = self._add(best.variant.keeping(tuple(kept)))
            if tried.alive and self._is_right(tried):
                break
        self._timed([self.original, *[each for each in self.tried[-len(kept) :] if each.alive and kept]], LAST / 2)
        self.layers = [
            each.model_copy(update={"left_in_float": True, "reason": "brought accuracy back"})
            if each.name in kept and each.decibels_gained is not None
            else each
            for each in self.layers
        ]

    def _finish(self) -> Tried:
        """Choose, time the choice once more, and fall back to float unless it is faster for certain."""
        ordered = sorted(
            (each for each in self._candidates() if self._is_right(each)), key=lambda each: -speed_of(each)
        )
        chosen = self.original
        if ordered:
            level = [each for each in ordered if speed_of(each) >= speed_of(ordered[0]) * (1 - AS_FAST)]
            best = max(level, key=lambda each: (self.evaluation.accuracy(file_of(each)), each.decibels or 0.0))
            self._timed([self.original, best], LAST)
            if best.timed and best.timed.speedup and best.timed.speedup.low > 1:
                chosen = best
            else:
                best.dropped = "no gain over FP32"
        return chosen

    def _candidates(self) -> list[Tried]:
        return [each for each in self.tried[1:] if each.alive and each.timed and each.timed.speedup]

    def _int8(self) -> list[Tried]:
        return [each for each in self._candidates() if each.variant is not None]

    def _fastest(self, files: Sequence[Tried]) -> Tried | None:
        return max(files, key=speed_of, default=None)

    def _is_right(self, each: Tried) -> bool:
        return is_right(each, self.question, self.evaluation)
