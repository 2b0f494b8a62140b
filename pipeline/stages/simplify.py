"""Simplify the ONNX graph: fold constants, fuse batch norm, remove nodes without effect.

Source: onnxsim (Daquexian and others). The result is accepted only when its outputs are those of the given file on 16
training images. It does not help exports of our own, which are already folded, and runtimes do the same when they load
a file; it helps with ONNX files from elsewhere, and before quantize, which needs batch norm folded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.core.artifact import Form
from pipeline.core.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    from pipeline.core.artifact import Artifact

#: Training images on which parity is checked.
PARITY_IMAGES = 16


class Simplify(Stage):
    """ONNX to a smaller ONNX file that computes the same."""

    revision: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "onnxsim")
    takes: ClassVar[frozenset[Form]] = frozenset({"onnx"})

    kind: Literal["simplify"]

    def run(self, given: Artifact, context: Context) -> Outcome:
        """Simplify and compare. Raises StageError when the outputs change."""
        from pipeline.export.simplify import simplify_onnx

        samples = context.task().feeds("train", slice(0, PARITY_IMAGES))
        done = simplify_onnx(given.file, context.folder / given.file.name, samples)
        changed = {
            "nodes_before": done.nodes_before,
            "nodes_after": done.nodes_after,
            "parity": done.parity.to_json(),
        }
        return Outcome("onnx", given.inputs, given.outputs, changed=changed)
