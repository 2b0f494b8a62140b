"""Share: the weights of a layer take a few values, those of a codebook, for good: k-means of its weights.

Source: Han et al., "Deep Compression" (ICLR 2016, arXiv 1510.00149): k-means of each layer's weights, then training of
the centroids by the sum of their weights' gradients. Zeros that an earlier stage has made keep a value of their own.
Where a later stage makes 8-bit weights, codebooks lie on their grid, with the largest weight of each output channel as
its unit, so that the int8 file has the codebook's integers.

What is bought is size once the file is packed (`secateur pack`): a place in a short codebook instead of a number. It
brings no time: no runtime here computes with codebooks. It does not help where the file that ships is in float and
the network has batch norms, since export multiplies the weights of each channel by another number: ship int8 then. Put
it behind everything that changes single weights or removes some.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pipeline.compress.quantization.names import IN_BLOCKS
from pipeline.core.artifact import Artifact, Form
from pipeline.core.stage import Context, Outcome, Remarks, Stage
from pipeline.stages.share.config import ShareConfig

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.core.stage import Target


#: Precisions whose weights have a scale for each output channel, and what a grid is called that is theirs: static int8
#: has one in every layer, dynamic int8 in matrix products alone.
_SCALED = {"int8": "", "int8-dynamic": "-products"}
_PARTED = (
    "{precision} has a scale for each block of 32 weights, so that equal weights become different integers, more than "
    "there are clusters: use precision int8 or int8-dynamic, or ship float"
)


def _values_of(grid: str) -> str:
    if grid == "float":
        return "any values"
    bits, _, products = grid.partition("-")
    return f"the values of {bits} weights" + (" in linear layers, and any in others" if products else "")


class Share(ShareConfig, Stage):
    """Let the weights of each layer of a torch network share a few values."""

    revision: ClassVar[int] = 4
    libraries: ClassVar[tuple[str, ...]] = ("torch", "numpy")
    takes: ClassVar[frozenset[Form]] = frozenset({"torch"})
    brings_no_gain: ClassVar[str] = "share leaves runtimes as many multiplications"
    makes_clusters: ClassVar[bool] = True

    kind: Literal["share"]

    def following(self, later: Sequence[Stage]) -> Self:
        """Return the stage with its grid chosen by the weights that the later stages make."""
        if self.grid != "auto":
            return self
        made = next((file for stage in later if (file := stage.ships()) and file.precision in _SCALED), None)
        if made is None:
            return self.model_copy(update={"grid": "float"})
        bits = "int7" if made.scheme.endswith("reduced") else "int8"
        return self.model_copy(update={"grid": f"{bits}{_SCALED[made.precision]}"})

    def remarks(self, later: Sequence[Stage], target: Target) -> Remarks:
        """Return that clusters bring no time, and what the grid is.

        Warnings are of sums of gradients that are too large, and of files that do not keep clusters.
        """
        grid = self.following(later).grid
        note = f"clusters bring size once a file is packed, and no time: {target.runtime} multiplies by each weight"
        trained = [each for each in (self.schedule, *later) if getattr(each, "optimizer", None) == "sgd"]
        summed = (
            "with optimizer sgd the summed gradients of a cluster move it by the rate times all of them, which "
            "diverges in large layers: set gradient to mean, or use adamw"
        )
        warnings = [summed] if trained and self.gradient == "sum" else []
        blocks = (file.precision for stage in later if (file := stage.ships()) and file.precision in IN_BLOCKS)
        warnings += [_PARTED.format(precision=each) for each in blocks]
        return Remarks((f"{note}; codebooks take {_values_of(grid)}",), tuple(warnings))

    def files(self) -> tuple[Path, ...]:
        """Return the files of the schedule's teacher."""
        return self.schedule.teacher_files() if self.schedule else ()

    def run(self, given: Artifact, context: Context) -> Outcome:
        """Find codebooks and give the weights their values; with a schedule on from where a killed run got to.

        Raises:
            InputError: a pattern of `keep` matches no layer, or a layer has no more weights than clusters.
            StageError: training diverges.
        """
        from pipeline.stages.share.making import share_weights

        return Outcome("torch", given.inputs, given.outputs, changed=share_weights(self, given, context))
