"""Sparsify: set single weights to zero, for good: every stage after this one keeps them, down to the int8 file.

The network keeps its layers and their sizes. What is bought is size once the file is compressed (gzip, an encoded
form), not time: runtimes multiply by zeros as by any other weight, unless a note of `plan` says otherwise.

Source: each method names its own; the default is magnitude (Han et al. 2015), by one-shot at the same density in each
layer. Well-tuned magnitude is hard to beat where a network is trained (Gale et al. 2019); where it is not, `obs` is
far ahead, as what stays makes up for what leaves.

It does not help latency in the runtimes here, and at once not accuracy: below a density of about a half a network needs
a `finetune` stage after this one, which trains what is left. For time remove channels (`prune`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.core.artifact import Artifact, Form
from pipeline.core.runtimes import RUNTIMES
from pipeline.core.stage import Context, Outcome, Remarks, Stage
from pipeline.stages.sparsify.config import SparsifyConfig

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.core.stage import Target


class Sparsify(SparsifyConfig, Stage):
    """Set the least important weights of a torch network to zero."""

    revision: ClassVar[int] = 3
    libraries: ClassVar[tuple[str, ...]] = ("torch",)
    takes: ClassVar[frozenset[Form]] = frozenset({"torch"})
    makes_masks: ClassVar[bool] = True

    kind: Literal["sparsify"]

    @property
    def parts_clusters(self) -> tuple[str, str]:
        """Weights that leave take their values from codebooks, and methods of second order change what stays."""
        return "kind", "sparsify chooses weights one by one"

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
                empty, as many weights are zero already, or the method cannot see a layer.
            StageError: training diverges, or what the method computes is not finite.
        """
        from pipeline.stages.sparsify.making import sparsify_once
        from pipeline.stages.sparsify.rounds import Rounds
        from pipeline.stages.sparsify.training import sparsify_trained

        if self.schedule is not None and self.schedule.shape == "rounds":
            changed = Rounds(self, self.schedule, given, context).run()
        elif self.schedule is not None:
            changed = sparsify_trained(self, self.schedule, given, context)
        else:
            changed = sparsify_once(self, self.method, given, context)  # type: ignore[arg-type] # the others train
        return Outcome("torch", given.inputs, given.outputs, changed=changed)
