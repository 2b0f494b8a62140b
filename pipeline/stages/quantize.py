"""Quantize after training, to int8 or another precision, with ranges from training images.

Weights get 8 bits with a scale for each output channel, activations 8 bits with a scale for each tensor, in the QDQ
format that both runtimes turn into integer kernels. Source: Jacob et al. 2018; entropy calibration by Migacz 2017;
bias correction and equalization by Nagel et al. 2019, adaptive rounding by Nagel et al. 2020.

On a CPU with dot-product instructions for 8 bits this is the step that brings most of the speed. It does not help where
a layer is bound by overhead rather than arithmetic (narrow or depthwise layers gain least), nor on CPUs without such
instructions, and networks with a wide spread of weights or activations lose accuracy. `engine: auto` measures all that
on the recipe's target and takes the fastest file within `score_drop`, which may be the float one.
"""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.compress.quantization.names import EngineName, OtherPrecision, Recovery, Scheme
from pipeline.core.artifact import Form
from pipeline.core.cpu import cpu_flags
from pipeline.core.feeds import sample_count
from pipeline.core.file_precision import FilePrecision
from pipeline.core.stage import Context, Outcome, Stage
from pipeline.core.units import Duration, Points, ScoreDrop
from pipeline.precision.config import QuantizationConfig
from pipeline.precision.targets import resolved_scheme
from pipeline.results.precision import PLAN, PrecisionPlan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onnx import ModelProto

    from pipeline.core.artifact import Artifact, StageRecord
    from pipeline.core.stage import Target
    from pipeline.precision.nearness import MakeFile

#: Images on which the file is compared with the float one.
PARITY_IMAGES = 128
#: Calibrations of the engines that do not have all, the one first that stands for the default where that is none.
CALIBRATIONS: dict[str, tuple[str, ...]] = {
    "neural-compressor": ("min-max", "mse"),
    "nncf": ("min-max", "percentile", "mse"),
}
#: Schemes of the engines beside onnxruntime's.
SIGNED_WEIGHTS = ("u8s8", "u8s8-reduced", "s8s8")
TORCH = ("torch",)
#: What an engine needs beside the stage's own libraries; with `auto` every engine, recovery, and what times the files.
DEPENDS_ON: dict[str, tuple[str, ...]] = {
    "onnxruntime": (),
    "neural-compressor": (*TORCH, "neural-compressor", "torchao"),
    "nncf": ("nncf",),
    "auto": (*TORCH, "openvino", "neural-compressor", "torchao", "nncf"),
}
#: Precisions that can be made of no file of these: its integers, or all of its halves, are no float32 any more.
CLOSED: dict[str, tuple[str, ...]] = dict.fromkeys(("int8", "int8-dynamic", "fp16"), ("int8", "int8-dynamic", "fp16"))


class Quantize(QuantizationConfig, Stage):
    """ONNX FP32 to ONNX int8 (QDQ), or to another precision."""

    revision: ClassVar[int] = 9
    libraries: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")
    takes: ClassVar[frozenset[Form]] = frozenset({"onnx"})

    kind: Literal["quantize"]
    engine: Literal["auto", EngineName] = Field(
        default="onnxruntime",
        description="What places the QDQ pairs and finds scales. `auto` tries all that are installed, with the schemes "
        "that suit the target and every calibration, times them there, and takes the fastest file that is accurate "
        "enough. `neural-compressor` calibrates by min-max (its default here) or mse, `nncf` not by entropy; both "
        "store weights as s8.",
    )
    precision: Literal["int8", OtherPrecision] = Field(
        default="int8",
        description="int8: weights and activations. int8-dynamic: matrix products, with ranges found at run time. "
        "int8-weights, int4-weights, fp16-weights: smaller files, computed in float. fp16: all of it.",
    )
    recover: tuple[Recovery, ...] = Field(
        default=(),
        description="How to recover accuracy without a change in time: cross-layer equalization, bias correction, "
        "adaptive rounding. With `engine: auto` they are tried if accuracy falls short.",
    )
    accuracy_drop: Points = Field(
        default=0.5, description="With `engine: auto`: points of accuracy that may be lost on the validation split."
    )
    score_drop: ScoreDrop | None = Field(
        default=None,
        exclude_if=lambda given: given is None,  # so that configurations without it are those that they were
        description="With `engine: auto`: how much of the task's score may be lost there instead, such as 0.5pt of a "
        "share, 2% of the original's score, or 0.2dB in the metric's own unit.",
    )
    budget: Duration = Field(default=60.0, description="With `engine: auto`: time for all measurements.")
    arm_exact: bool = Field(
        default=False,
        description="The file must compute the same on ARM as here, in onnxruntime: weights that any kernel clips are "
        "refused, and additions are computed in float, because integer additions round differently there. Other float "
        "operators may differ in the last bit; the report lists them.",
    )

    @property
    def parts_clusters(self) -> tuple[str, str]:
        """One scale for a whole weight, or rounding and scaling that change weights one by one."""
        if not self.per_channel:
            return "per_channel", "found false, allowed after share: true"
        if changed := [each for each in self.recover if each != "bias"]:
            return "recover", f"found {', '.join(changed)}, allowed after share: bias"
        return "", ""

    @property
    def measures(self) -> bool:
        """Whether the file depends on a latency: with `engine: auto`, or because a gain is asked for."""
        return self.engine == "auto" or super().measures

    @property
    def computes(self) -> bool:
        """Ranges are found, and outputs compared, in the runtime."""
        return True

    def depends_on(self) -> tuple[str, ...]:
        """Return also what engines and recovery are made of, and with `engine: auto` what times files, as installed."""
        more = DEPENDS_ON[self.engine] + (TORCH if self.recover else ())
        there = (name for name in dict.fromkeys(more) if _is_installed(name))
        return (*self.libraries, *there)

    def unmet(self, target: Target) -> tuple[tuple[str, str], ...]:
        """Return that the engine's package is missing, or that `auto` cannot time files in the target's runtime."""
        if self.engine == "auto":
            found = 'found "auto", which times files, and target.runtime torch, which reads none'
            allowed = "target.runtime onnxruntime or openvino, or an engine by name"
            return (("engine", f"{found}, allowed: {allowed}"),) if target.runtime == "torch" else ()
        if find_spec(self.engine.replace("-", "_")):
            return ()
        install = f"pip install 'secateur[{self.engine}]'"
        return (("engine", f'found "{self.engine}", but its package is not installed: {install}'),)

    @classmethod
    def computes_in(cls, record: StageRecord) -> str:
        """Return the precision that was asked for, or that `engine: auto` chose."""
        plan = record.changed.get(PLAN)
        return PrecisionPlan.model_validate(plan).winner.precision if plan else str(record.config["precision"])

    def resolved(self, flags: frozenset[str]) -> Self:
        """Return the configuration with `auto` replaced by the scheme for a CPU with these flags.

        With `engine: auto` the scheme is one of the choices, and stays.
        """
        if self.engine == "auto":
            return self
        return self.model_copy(update={"scheme": self._scheme_on(flags)})

    def precision_fault(self, given: FilePrecision) -> str:
        """Say that the file is quantized already: weights in blocks and int8, for example, go together."""
        if self.precision != given.precision and self.precision not in CLOSED.get(given.precision, ()):
            return ""
        return f"{self.kind} to {self.precision} needs a float file, and cannot start from one in {given.precision}"

    def ships(self) -> FilePrecision:
        """Return the precision that is asked for; with `engine: auto` int8, which it may find slower than another."""
        auto = self.engine == "auto"
        return FilePrecision(
            precision=self.precision,
            engine="onnxruntime" if auto else self.engine,
            scheme=self._shipped_scheme(),
            per_channel=self.per_channel,
            symmetric=self.symmetric,
            keep=self.keep,
            on_arm=self.arm_exact,
            certain=not auto,
            packages=self.libraries if auto else self.depends_on(),
        )

    def _shipped_scheme(self) -> str:
        """Return the types of activations and weights; dynamic int8 has no other choice than 7 bits for weights."""
        scheme = self._scheme_on(cpu_flags())
        if self.precision == "int8-dynamic":
            return "u8s8-reduced" if scheme == "u8s8-reduced" else "u8s8"
        return scheme if self.precision == "int8" else ""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.calibration not in self._calibrations and "calibration" not in self.model_fields_set:
            # A default that depends on the engine. A validator before would lose that lists of a recipe become tuples.
            object.__setattr__(self, "calibration", self._calibrations[0])
        for key, allowed, reason in self._restrictions():
            value = getattr(self, key)
            if value not in allowed:
                found = ", ".join(value) if isinstance(value, tuple) else str(value).lower()
                raise ValueError(f'{key} is "{found}", {reason}')
        return self

    @property
    def _calibrations(self) -> tuple[str, ...]:
        return CALIBRATIONS.get(self.engine, (self.calibration,))

    def _restrictions(self) -> Iterator[tuple[str, tuple[Any, ...], str]]:
        """Yield a key, the values that it may have, and what is said of another one."""
        if self.engine == "auto":
            for key, usual in (("precision", "int8"), ("recover", ()), ("on_far", "float")):
                yield key, (usual,), f"which engine auto chooses itself: remove {key}, or name an engine"
        elif self.engine != "onnxruntime":
            for key, allowed in (("calibration", self._calibrations), ("scheme", ("auto", *SIGNED_WEIGHTS))):
                yield key, allowed, f"allowed with engine {self.engine}: {', '.join(allowed)}"
        if self.precision != "int8":
            yield "engine", ("onnxruntime",), "which makes int8: remove engine, or use precision int8"
            unused: tuple[tuple[str, Any], ...] = (("recover", ()), ("arm_exact", False))
            for key, value in unused:
                yield key, (value,), f"which precision {self.precision} does not have: remove {key}"

    def run(self, given: Artifact, context: Context) -> Outcome:
        """Quantize, and say how far the outputs moved; a file that is far from the float one is mended or refused.

        Raises:
            InputError: fewer training images than asked for, a pattern in `keep` without a match, a quantized file, an
                engine that is not installed or cannot do what is asked.
            StageError: batch norm is not folded, the file is not exact where it must be, or the quantized file's
                outputs are far from those of the float file and `on_far` does not help.
            DeviceError: with `engine: auto`, the target's device cannot be reached.
        """
        from pipeline.export.parity import output_differences
        from pipeline.onnx_graph.execution import onnx_outputs
        from pipeline.precision.request import training_images

        file = context.folder / given.file.name
        changed = self._search(given, context, file) if self.engine == "auto" else self._make(given, context, file)
        context.progress.update(1, 2, "comparing with the float file")
        samples = training_images(context, min(PARITY_IMAGES, context.task().count("train")))
        parity = output_differences(*(onnx_outputs(path, samples, optimised=True) for path in (given.file, file)))
        return Outcome("onnx", given.inputs, given.outputs, changed={**changed, "parity": parity.to_json()})

    def _search(self, given: Artifact, context: Context, file: Path) -> dict[str, Any]:
        """Write the fastest file that is right, and return everything that was tried."""
        from pipeline.core.nearness import NEARNESS
        from pipeline.onnx_graph.file import read_onnx
        from pipeline.precision.nearness import net_of, observe_nearness
        from pipeline.precision.planner import CANDIDATES, find_precision, require_exact_on_arm

        chosen, plan = find_precision(
            self,
            given,
            context,
            score_drop=self.score_drop or ScoreDrop(self.accuracy_drop, "pt"),
            budget_s=self.budget,
            arm_exact=self.arm_exact,
        )
        shutil.copyfile(chosen, file)
        shutil.rmtree(context.folder / CANDIDATES)
        told: dict[str, Any] = {PLAN: plan.model_dump(mode="json")}
        if chosen != given.file:
            near = observe_nearness(net_of(given.file, context, plan.calibration_images), file, stage=self.kind)
            told[NEARNESS] = near.model_dump(mode="json", exclude_none=True)
        exact = self.arm_exact and chosen != given.file
        arm = {"may_round_on_arm": require_exact_on_arm(read_onnx(file))} if exact else {}
        return {**told, **arm}

    def _make(self, given: Artifact, context: Context, file: Path) -> dict[str, Any]:
        """Write the file that was asked for, near the float one, and return what was done."""
        from pipeline.core.nearness import NEARNESS
        from pipeline.onnx_graph.file import read_onnx
        from pipeline.precision.making import OtherPrecision, StaticInt8
        from pipeline.precision.nearness import ensure_near, net_of
        from pipeline.precision.request import calibration_images, request_of
        from pipeline.precision.variant import Variant

        model, scheme = read_onnx(given.file), self._scheme_on(cpu_flags())
        calibrated, told = 0, {}
        make: MakeFile
        if self.precision == "int8":
            images = calibration_images(self, context, model)
            calibrated = sample_count(images.feeds)
            context.progress.update(0, 2, f"calibrating on {calibrated} images")
            variant = Variant(self.engine, request_of(self, scheme), self.recover, alike=self.arm_exact)  # type: ignore[arg-type]
            make = StaticInt8(model, images.feeds, variant, file, context.progress, self._on_arm)
            told = {"scheme": scheme, "calibration_images": calibrated, "ranges_moved": dict(images.moved)}
        else:
            make = OtherPrecision(model, self.precision, scheme == "u8s8-reduced", self.keep, file)
        net = net_of(given.file, context, calibrated)
        made, near = ensure_near(net, make, self.on_far, stage=self.kind, progress=context.progress)
        return {**told, **made.told, NEARNESS: near.model_dump(mode="json", exclude_none=True)}

    def _on_arm(self, model: ModelProto) -> dict[str, Any]:
        """Say which nodes may round otherwise on ARM where that is asked for. Raises StageError where sums differ."""
        from pipeline.precision.planner import require_exact_on_arm

        return {"may_round_on_arm": require_exact_on_arm(model)} if self.arm_exact else {}

    def _scheme_on(self, flags: frozenset[str]) -> Scheme:
        """Return the scheme, for `auto` the best one; where the sums must be the same on ARM, the best exact one."""
        if self.scheme == "auto" and self.arm_exact:
            return "u8s8-reduced"
        return resolved_scheme(self.scheme, flags)


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
