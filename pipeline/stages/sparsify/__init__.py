"""Sparsify: set single weights to zero, for good: every stage after this one keeps them, down to the int8 file.

The network keeps its layers and their sizes. What is bought is size once the file is compressed (gzip, an encoded
form), not time: runtimes multiply by zeros as by any other weight, unless a note of `plan` says otherwise.

Source: each method names its own; the default is magnitude (Han et al. 2015), by one-shot at the same density in each
layer. Well-tuned magnitude is hard to beat (Gale et al. 2019).

It does not help latency in the runtimes here, and at once not accuracy: below a density of about a half a network needs
a `finetune` stage after this one, which trains what is left. For time remove channels (`prune`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.compress.sparsity.names import SparsityMethod, SparsityScope
from pipeline.core.artifact import Artifact, Form
from pipeline.core.runtimes import RUNTIMES
from pipeline.core.stage import Context, Outcome, Remarks, Stage
from pipeline.core.units import Ratio
from pipeline.stages.sparsify.config import SparsifySchedule, schedule_conflicts
from pipeline.stages.sparsify.pattern import N_OF_M, pattern_fault

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.core.stage import Target


class Sparsify(Stage):
    """Set the least important weights of a torch network to zero."""

    revision: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("torch",)
    takes: ClassVar[frozenset[Form]] = frozenset({"torch"})
    makes_masks: ClassVar[bool] = True

    kind: Literal["sparsify"]
    method: SparsityMethod = Field(
        default="magnitude",
        description="Which weights become zero: the smallest (magnitude, Han et al. 2015), or any, by chance (random, "
        "the control). With a schedule alone: those below a threshold, from where they may come back (dns, Dynamic "
        "Network Surgery by Guo et al. 2016); the smallest, in exchange for those with the largest gradients (rigl, "
        "Evci et al. 2020); those that training moves towards zero (movement, Sanh et al. 2020, for tuning to another "
        "task).",
    )
    density: Ratio | None = Field(
        default=None,
        description="Share of the weights that stays, such as 0.1 or 10%, of the layers that `keep` does not name. "
        "Absent for a pattern N:M, which gives N / M.",
    )
    scope: SparsityScope = Field(
        default="layer",
        description="How the density is divided: the same in every layer (layer), one ranking of all weights (global), "
        "or by Erdos-Renyi-Kernel, which leaves narrow layers more (erk, Evci et al. 2020).",
    )
    pattern: str | None = Field(
        default=None,
        description="Where zeros may lie: `2:4` keeps the two best of every four input channels, for each output "
        "channel and position of the kernel; `1x4` keeps or cuts four output channels together. Absent: anywhere.",
    )
    keep: tuple[str, ...] = Field(
        default=(),
        description="Layers that stay dense, by qualified name; patterns such as layer4.* are allowed.",
    )
    schedule: SparsifySchedule | None = Field(
        default=None, description="Train while weights become zero. Absent: all at once, without training."
    )
    images: Annotated[int, Field(ge=1)] = Field(
        default=500, description="Training images for methods that look at data, drawn with the run's seed."
    )
    batch: Annotated[int, Field(ge=1)] = Field(default=64, description="Images in one pass; this affects only memory.")

    @field_validator("pattern")
    @classmethod
    def _can_be_read(cls, value: str | None) -> str | None:
        if value is not None and (fault := pattern_fault(value)):
            raise ValueError(fault)
        return value

    @model_validator(mode="after")
    def _one_density(self) -> Self:
        fixed = self.pattern is not None and N_OF_M.match(self.pattern) is not None
        if fixed and (self.density is not None or self.scope != "layer"):
            given = "density" if self.density is not None else f"scope {self.scope}"
            raise ValueError(f"found {given} with pattern {self.pattern}, which is the same in every layer: remove it")
        if not fixed and self.density is None:
            raise ValueError("found no density, required: the share of the weights that stays, such as 0.1")
        return self

    @model_validator(mode="after")
    def _goes_with_the_method(self) -> Self:
        if found := next(schedule_conflicts(self), ""):
            raise ValueError(found)
        return self

    def files(self) -> tuple[Path, ...]:
        """Return the files of the schedule's teacher."""
        return self.schedule.teacher_files() if self.schedule else ()

    def remarks(self, later: Sequence[Stage], target: Target) -> Remarks:
        """Return that zeros bring no time in the target's runtime, and why."""
        del later
        return Remarks((f"zeros bring size once a file is compressed, and no time: {RUNTIMES[target.runtime].zeros}",))

    def run(self, given: Artifact, context: Context) -> Outcome:
        """Set weights to zero; with a schedule on from where an earlier, killed run of it got to.

        Raises:
            InputError: a pattern of `keep` matches no layer, channels do not divide by `pattern`, a layer would be left
                empty, or as many weights are zero already.
            StageError: training diverges.
        """
        from pipeline.stages.sparsify.making import sparsify_once
        from pipeline.stages.sparsify.training import sparsify_trained

        if self.schedule is not None:
            changed = sparsify_trained(self, self.schedule, given, context)
        else:
            changed = sparsify_once(self, self.method, given, context)  # type: ignore[arg-type] # the others train
        return Outcome("torch", given.inputs, given.outputs, changed=changed)
