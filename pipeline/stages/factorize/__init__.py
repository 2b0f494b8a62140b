"""Factorize: low rank, a layer as two or three thinner ones, with the least error in its output.

Linear layers, 1x1 convolutions and the input matrix of recurrent layers become two by SVD; larger convolutions become
Kx1 and 1xK (spatial), KxK and 1x1 (channel), or 1x1, KxK and 1x1 (tucker). The ranks of all layers come from one
budget. What stands in a layer's place are plain layers: prune, finetune, export and quantize work on them.

Source: activation-whitened SVD as SVD-LLM (Wang et al. 2024); spatial legs Jaderberg et al. 2014; channel legs Zhang
et al. 2015; Tucker-2 Kim et al. 2016; each file of `compress/factorization/` names its own.

It does not help where rank is needed: layers are left where no allowed rank is below break-even, and accuracy falls at
once and comes back only in a `finetune` stage after this one. Fewer operations are not less time: each leg more costs
an operator's overhead and a tensor written and read, and in int8 one more requantization. A latency as target takes
that into account, and `adopt: measured` keeps what gains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, SerializerFunctionWrapHandler, model_serializer, model_validator

from pipeline.compress.factorization.names import MethodName
from pipeline.compress.quantization.names import OtherPrecision
from pipeline.core.artifact import Artifact, Form, FrozenModel
from pipeline.core.file_precision import FilePrecision
from pipeline.core.runtimes import DEFAULT_RUNTIME, RUNTIMES
from pipeline.core.stage import Context, Outcome, Remarks, Stage
from pipeline.core.units import PartOrDuration, Ratio
from pipeline.pricing.shipped import aim_of, other_precision, priced_file, pricing_note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.compress.factorization.names import BudgetName
    from pipeline.core.stage import Target

#: Distributions that make a file of a network.
_FILES = ("onnx", "onnxscript", RUNTIMES[DEFAULT_RUNTIME].package)


def _absent(given: object) -> bool:
    """Say that a key is not there, so that configurations without it are those that they were."""
    return given is None


class RankTarget(FrozenModel):
    """What the ranks of all layers are chosen by: a fraction of a cost of the given network, an energy, or a time."""

    macs: Ratio | None = Field(
        default=None, exclude_if=_absent, description="Multiply-accumulates of one sample that may be left."
    )
    parameters: Ratio | None = Field(default=None, exclude_if=_absent, description="Parameters that may be left.")
    energy: Ratio | None = Field(
        default=None,
        exclude_if=_absent,
        description="Energy of its output that each layer keeps, such as 0.95: the least operations within that. The "
        "same number saves much in one layer and little in another, so prefer a cost.",
    )
    latency: PartOrDuration | None = Field(
        default=None,
        exclude_if=_absent,
        description="Time of the file that ships, on the recipe's target: 0.7x of the time of the given network's file "
        "in the same precision, or a time such as 2.5ms.",
    )

    @model_validator(mode="after")
    def _one(self) -> RankTarget:
        if (found := len(self.model_dump(exclude_none=True))) != 1:
            raise ValueError(f"found {found} targets, allowed: one of macs, parameters, energy, latency")
        return self

    def pair(self) -> tuple[BudgetName, float]:
        """Return which, and the fraction; of a latency the factor or the seconds."""
        found: dict[BudgetName, float | None] = {
            "macs": self.macs,
            "parameters": self.parameters,
            "energy": self.energy,
            "latency": self.latency,
        }
        return next((name, fraction) for name, fraction in found.items() if fraction is not None)


class Factorize(Stage):
    """Write layers of a torch network as products of thinner ones."""

    revision: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ("torch",)
    takes: ClassVar[frozenset[Form]] = frozenset({"torch"})

    kind: Literal["factorize"]
    target: RankTarget = Field(description="What is left of a cost or of a time, or how much energy is kept.")
    precision: Literal["fp32", "int8", OtherPrecision] | None = Field(
        default=None,
        exclude_if=_absent,
        description="With a latency as `target`: the precision of the file that is timed, by the names of `quantize`. "
        "Absent: what the stages after this one make of it.",
    )
    method: MethodName = Field(
        default="auto",
        description="How convolutions larger than 1x1 are factorised: Kx1 and 1xK (spatial), KxK and 1x1 (channel), "
        "1x1, KxK and 1x1 (tucker), for each layer what costs least for its error (auto), or not (svd). Linear layers, "
        "1x1 convolutions and the input matrix of recurrent layers are factorised by SVD with each of them.",
    )
    whiten: bool = Field(
        default=True,
        description="Least error of each layer's output on training images; otherwise of its weights, without data.",
    )
    images: Annotated[int, Field(ge=1)] = Field(
        default=500,
        description="Training images for `whiten`, and for the statistics of batch norms, which are renewed; drawn "
        "with the run's seed.",
    )
    batch: Annotated[int, Field(ge=1)] = Field(default=64, description="Images in one pass; this affects only memory.")
    align: Annotated[int, Field(ge=1, le=65_536)] = Field(
        default=8, description="Ranks are multiples of this. 8 suits the vector units of most CPUs."
    )
    min_rank: Annotated[int, Field(ge=1)] = Field(default=1, description="Least rank of any layer.")
    keep: tuple[str, ...] = Field(
        default=(), description="Layers that stay as they are, by qualified name; patterns such as head* are allowed."
    )
    adopt: Literal["all", "measured"] = Field(
        default="all",
        description="Which of the chosen layers are factorised: all, or those with which alone the network's FP32 file "
        "is faster on the recipe's target, timed side by side (measured).",
    )

    #: The kind of file that a latency is of; `following` finds it.
    _priced: FilePrecision | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _latency_has_its_own(self) -> Factorize:
        if self.target.latency is None and self.precision is not None:
            raise ValueError("found precision, allowed: precision with target: {latency: ...}")
        if self.target.latency is not None and self.adopt == "measured":
            raise ValueError(
                "found adopt measured with target.latency, which measures what each layer takes: allowed: adopt "
                "measured with macs, parameters or energy"
            )
        return self

    @model_serializer(mode="wrap")
    def _with_priced(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        priced_as = {"priced": self._priced.model_dump(mode="json")} if self._priced else {}
        return {**write(self), **priced_as}

    def following(self, later: Sequence[Stage]) -> Self:
        """Return the stage with what it times filled in, where a latency is the target."""
        if self.target.latency is None:
            return self
        file = priced_file(self.precision, later)
        made = self.model_copy(update={"precision": file.precision})
        made._priced = file  # noqa: SLF001 - its own class
        return made

    @property
    def measures(self) -> bool:
        """Whether files are timed."""
        return self.computes or super().measures

    @property
    def computes(self) -> bool:
        """Whether files are timed in the target's runtime."""
        return self.adopt == "measured" or self.target.latency is not None

    def depends_on(self) -> tuple[str, ...]:
        """Return where files are timed also what makes them."""
        if not self.computes:
            return self.libraries
        return tuple(dict.fromkeys((*self.libraries, *_FILES, *(self._priced.packages if self._priced else ()))))

    def unmet(self, target: Target) -> tuple[tuple[str, str], ...]:
        """Return that no file can be timed in the target's runtime."""
        if not self.computes or target.runtime != "torch":
            return ()
        key, what = ("adopt", "adopt: measured") if self.adopt == "measured" else ("target", "a latency")
        other = "adopt: all" if self.adopt == "measured" else "another target"
        found = f"found {what}, for which files are timed, and target.runtime torch, which reads none"
        return ((key, f"{found}, allowed: target.runtime onnxruntime or openvino, or {other}"),)

    @property
    def fills_zeros(self) -> tuple[str, str]:
        """Factors are dense."""
        return "kind", "factorize replaces weights by dense products"

    @property
    def parts_clusters(self) -> tuple[str, str]:
        """Factors are other weights."""
        return "kind", "factorize replaces weights by products of others"

    def remarks(self, later: Sequence[Stage], target: Target) -> Remarks:
        """Return what to expect in operations and in time, and what int8 makes of it."""
        cost = "a factorised layer is one operator more (tucker: two), with its overhead and a tensor to write and read"
        name, fraction = self.target.pair()
        int8 = any((file := each.ships()) and file.precision == "int8" for each in later)
        in_int8 = "in int8 each leg more is requantized, with a range of its own: compare the int8 file's score"
        if self.target.latency is not None:
            note = pricing_note(self.target.latency, priced_file(self.precision, later), target, "given network's")
            other = other_precision(self.precision, later)
            notes = (note, f"times some tens of files with some layers in factors, which takes minutes; {cost}")
            return Remarks((*notes, in_int8) if int8 else notes, (other,) if other else ())
        left = (
            f"keeps {fraction:.3g} of each layer's energy" if name == "energy" else f"leaves {fraction:.3g} of {name}"
        )
        told = [f"{left}; time falls by less: {cost}"]
        if int8:
            told.append(in_int8)
            if self.adopt == "measured":
                told.append("adopt: measured times FP32 files; the int8 file may gain less or more")
        if self.adopt == "measured":
            told.append(f"times layers in {target.runtime} on {target.device}, about 15 s for each")
        return Remarks(tuple(told))

    def run(self, given: Artifact, context: Context) -> Outcome:
        """Choose ranks and write the factorised network.

        Raises:
            InputError: a pattern names no layer, no layer has a rank below break-even and none can be merged back, or
                the target cannot be reached.
            StageError: nothing would be factorised or merged back.
            DeviceError: with `adopt: measured`, the device cannot be reached, went away, or is throttled.
        """
        from pipeline.stages.factorize.factorizing import FactorizeRequest, Factorizing

        request = FactorizeRequest(
            target=self.target.pair(),
            aim=aim_of(self.target.latency, self._priced or FilePrecision())
            if self.target.latency is not None
            else None,
            method=self.method,
            whiten=self.whiten,
            images=self.images,
            batch=self.batch,
            align=self.align,
            least=self.min_rank,
            keep=self.keep,
            measured=self.adopt == "measured",
        )
        return Outcome("torch", given.inputs, given.outputs, changed=Factorizing(request, given, context).run())
