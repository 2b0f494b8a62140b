"""What writes the file that a recipe asks for, again and again with other nodes in float, for the net to judge it."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.compress.quantization.placement import suspect_nodes
from pipeline.core.errors import InputError
from pipeline.onnx_graph.file import finish_model, write_onnx
from pipeline.precision.nearness import MadeFile
from pipeline.precision.variant import build, other_precision

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from onnx import ModelProto

    from pipeline.core.feeds import Feeds
    from pipeline.core.stage import Progress
    from pipeline.precision.rows import Precision
    from pipeline.precision.variant import Variant


@dataclass(frozen=True)
class StaticInt8:
    """Makes a static int8 file of a float graph; `also` says more of it, or raises StageError where it may not ship."""

    model: ModelProto
    feeds: Feeds
    variant: Variant
    file: Path
    progress: Progress
    also: Callable[[ModelProto], dict[str, Any]] = lambda _: {}

    def __call__(self, in_float: tuple[str, ...]) -> MadeFile:
        """Write it with these nodes in float. Errors are those of `build`."""
        quantized = build(self.model, self.feeds, self.variant.keeping(in_float), self.progress)
        also = self.also(quantized.model)
        write_onnx(finish_model(quantized.model), self.file)
        left = {"left_in_float": dict(quantized.reasons)} if quantized.reasons else {}
        told = {"quantized_nodes": quantized.nodes, "float_nodes": list(quantized.float_nodes), **left, **also}
        nodes = suspect_nodes(self.model, self.variant.request.keep)
        return MadeFile(self.file, nodes, told, empty=not quantized.nodes)


@dataclass(frozen=True)
class OtherPrecision:
    """Makes a file of another precision than static int8 of a float graph; arguments are those of `other_precision`."""

    model: ModelProto
    precision: Precision
    reduced: bool
    keep: tuple[str, ...]
    file: Path

    def __call__(self, in_float: tuple[str, ...]) -> MadeFile:
        """Write it with these nodes in float. Raises InputError when nothing qualifies even without them."""
        kept = (*self.keep, *map(glob.escape, in_float))
        told = {"precision": self.precision, **({"float_nodes": list(in_float)} if in_float else {})}
        try:
            made, empty = other_precision(self.model, self.precision, reduced=self.reduced, keep=kept), False
        except InputError:
            if not in_float:
                raise
            made, empty = self.model, True
        write_onnx(finish_model(made), self.file)
        return MadeFile(self.file, suspect_nodes(self.model, self.keep), told, empty=empty)
