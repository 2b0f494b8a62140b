"""Simplify an ONNX file with onnxsim, and believe the result only when it computes the same.

onnxsim folds constants and removes what has no effect. It has been wrong before, so its own check is not relied upon:
both files are run on real samples, with all optimisations of the runtime off.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnxsim

from pipeline.core.errors import StageError, first_line
from pipeline.export.parity import FLOAT32_TOLERANCE, check_parity, locate_in_onnx
from pipeline.onnx_graph.execution import onnx_outputs
from pipeline.onnx_graph.file import finish_model, onnx_specs, read_onnx, write_onnx

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

    from pipeline.core.feeds import Feeds
    from pipeline.export.parity import Parity


@dataclass(frozen=True)
class SimplifyResult:
    """Nodes before and after, and how far the outputs moved."""

    nodes_before: int
    nodes_after: int
    parity: Parity


def with_folded_norms(model: ModelProto) -> ModelProto:
    """Return the model without batch norms that alone read a convolution, as `simplify` leaves it; or as it is.

    An exporter leaves them where two places of the network use the same convolution.

    Raises StageError when onnxsim fails.
    """
    readers = Counter(value for node in model.graph.node for value in node.input)
    convolutions = {node.output[0] for node in model.graph.node if node.op_type == "Conv"}
    norms = (node.input[0] for node in model.graph.node if node.op_type == "BatchNormalization")
    if not any(value in convolutions and readers[value] == 1 for value in norms):
        return model
    try:
        simplified, _ = onnxsim.simplify(model, check_n=0)
    except Exception as error:  # as in `simplify_onnx`
        raise StageError(f"onnxsim could not fold a batch norm into its convolution: {first_line(error)}") from error
    return finish_model(simplified)


def simplify_onnx(source: Path, destination: Path, feeds: Feeds) -> SimplifyResult:
    """Write the simplified file. The same file and version of onnxsim give the same bytes.

    Raises:
        InputError: `source` is not an ONNX model.
        StageError: onnxsim failed, or its result differs by more than 1e-4 of scale on the samples. Then nothing is
            left at `destination`.
    """
    given = read_onnx(source)
    try:
        simplified, _ = onnxsim.simplify(given, check_n=0)
    except Exception as error:  # onnxsim raises bare RuntimeError and whatever its parts raise
        raise StageError(
            f"onnxsim could not simplify {source}: {first_line(error)}. Remove the simplify stage"
        ) from error
    result = finish_model(simplified)
    if onnx_specs(result) != onnx_specs(given):
        raise StageError(f"onnxsim changed the inputs or outputs: {onnx_specs(result)}, expected {onnx_specs(given)}")
    write_onnx(result, destination)
    try:
        parity = _parity(source, destination, feeds)
    except StageError:
        destination.unlink()
        raise
    return SimplifyResult(len(given.graph.node), len(result.graph.node), parity)


def _parity(source: Path, destination: Path, feeds: Feeds) -> Parity:
    reference, outputs = (onnx_outputs(file, feeds) for file in (source, destination))
    return check_parity(
        reference,
        outputs,
        tolerance=FLOAT32_TOLERANCE,
        locate=lambda: locate_in_onnx(source, destination, feeds, tolerance=FLOAT32_TOLERANCE),
    )
