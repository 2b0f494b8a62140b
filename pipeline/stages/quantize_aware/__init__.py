"""Fine-tune with quantization simulated, and end with the int8 file: quantization-aware training.

The network is exported, its ONNX graph quantized as `quantize` would, and then trained as that graph: rounding and
clipping of weights and activations are part of the forward pass, so that the weights settle where they cost little. The
result has the same QDQ form as that of `quantize`. Source: Jacob et al. 2018; Krishnamoorthi 2018.

It helps where quantization after training loses accuracy that bias correction or rounding cannot bring back (narrow or
depthwise networks, 7-bit weights). It does not help a network that loses nothing, and it changes no time. The learning
rate should be small: a hundredth of the first training's. Weights that are zero at the start stay zero. The calibrated
network counts as epoch 0, and ships where no epoch is better on the validation split.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.compress.quantization.names import DEFAULT_ENGINE
from pipeline.core.artifact import Form
from pipeline.core.cpu import cpu_flags
from pipeline.core.file_precision import FilePrecision
from pipeline.core.stage import Context, Outcome, Stage
from pipeline.network.training_config import TrainingConfig
from pipeline.precision.config import QuantizationConfig
from pipeline.precision.targets import resolved_scheme

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.core.artifact import Artifact, StageRecord


class QuantizeAwareFinetune(TrainingConfig, QuantizationConfig, Stage):
    """Torch network to ONNX int8 (QDQ)."""

    revision: ClassVar[int] = 7
    fixes_sizes: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("numpy", "torch", "onnx", "onnxscript", "onnxruntime")
    takes: ClassVar[frozenset[Form]] = frozenset({"torch"})

    kind: Literal["quantize-aware-finetune"]
    freeze_observers: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5, description="Share of the epochs after which ranges of activations are frozen."
    )
    freeze_norms: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5, description="Share of the epochs after which batch-norm statistics are frozen."
    )
    keep_zeros: bool = Field(default=True, description="Weights that are zero stay zero, as after pruning by a mask.")

    @property
    def fills_zeros(self) -> tuple[str, str]:
        """`keep_zeros: false`."""
        return ("keep_zeros", "found false, allowed after sparsify: true") if not self.keep_zeros else ("", "")

    @property
    def parts_clusters(self) -> tuple[str, str]:
        """One scale for a whole weight."""
        return ("per_channel", "found false, allowed after share: true") if not self.per_channel else ("", "")

    @property
    def computes(self) -> bool:
        """Ranges of activations are found in the runtime."""
        return True

    def produces(self, given: Form) -> Form:
        """ONNX."""
        del given
        return "onnx"

    def files(self) -> tuple[Path, ...]:
        """Return the teacher's files."""
        return self.teacher_files()

    def run(self, given: Artifact, context: Context) -> Outcome:
        """Train on from where an earlier, killed run of this stage got to.

        Raises:
            InputError: the network cannot be exported, or has an operator that is not known here.
            StageError: training diverges, the file differs from what was trained, or its outputs are far from those
                of the float network and `on_far` does not help.
        """
        from pipeline.stages.quantize_aware.training import train_quantized

        inputs, outputs, changed = train_quantized(
            self,
            self,
            given,
            context,
            scheme=resolved_scheme(self.scheme, cpu_flags()),
            freeze=(self.freeze_observers, self.freeze_norms),
            keep_zeros=self.keep_zeros,
        )
        return Outcome("onnx", inputs, outputs, changed=changed)

    @classmethod
    def computes_in(cls, record: StageRecord) -> str:
        """Return int8."""
        del record
        return "int8"

    def ships(self) -> FilePrecision:
        """Return int8 with the configuration's scheme."""
        return FilePrecision(
            precision="int8",
            engine=DEFAULT_ENGINE,
            scheme=resolved_scheme(self.scheme, cpu_flags()),
            per_channel=self.per_channel,
            symmetric=self.symmetric,
            keep=self.keep,
            packages=self.libraries,
        )

    def resolved(self, flags: frozenset[str]) -> Self:
        """Return the configuration with `auto` replaced by the scheme for a CPU with these flags."""
        return self.model_copy(update={"scheme": resolved_scheme(self.scheme, flags)})

    @model_validator(mode="after")
    def _norms_are_folded(self) -> Self:
        if self.recalibrate:
            raise ValueError("recalibrate is for batch norm that is not folded; allowed here: 0")
        if self.distill and (self.distill.features or self.distill.attention):
            raise ValueError(
                "found distill with features or attention, allowed here: the teacher's outputs alone, because the "
                "exported graph is trained, which has no layers; put a finetune before with them"
            )
        return self
