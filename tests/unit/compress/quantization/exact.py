"""Small float graphs, what engines make of them, and whether that is within the noise of 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper

from pipeline.compress.quantization.engines.engine import QuantizeRequest, missing_engine
from pipeline.compress.quantization.engines.registry import ENGINES
from pipeline.compress.quantization.holding import hold_in_float
from tests.defaults import asked
from tests.feeds import fed
from tests.properties.int8_noise import expected_noise, onnxruntime_outputs, too_far
from tests.unit.compress.quantization.graphs import floats, model_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto, NodeProto

    from pipeline.compress.quantization.engines.engine import QuantizedGraph
    from pipeline.compress.quantization.names import EngineName
    from tests.unit.compress.quantization.graphs import Array

IMAGES = floats(12, 3, 6, 6) + np.float32(0.3)
#: Of 7 bits, so that no sum saturates on any processor.
PLAIN = asked("u8s8-reduced", calibration="min-max")
COMMON = asked("u8s8-reduced", per_channel=False, calibration="min-max")


def node(operator: str, given: str, made: str, **attributes: Any) -> NodeProto:  # noqa: ANN401
    """Return a node named after what it makes; `-` is an input that is left out."""
    return helper.make_node(
        operator, [each.replace("-", "") for each in given.split()], [made], f"{made}.node", **attributes
    )


def graph(nodes: Sequence[NodeProto], outputs: str = "y", **constants: Array) -> ModelProto:
    """Return a float graph of images [1, 3, 6, 6], with the shapes of its values."""
    stored = {key.replace("_", "."): np.asarray(array) for key, array in constants.items()}
    model = model_of(nodes, {"input": (1, 3, 6, 6)}, outputs.split(), stored)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def quantized(
    name: EngineName, model: ModelProto, request: QuantizeRequest = PLAIN, images: Array = IMAGES
) -> QuantizedGraph:
    """Return what an engine makes of a graph; the test is skipped where its package is missing."""
    if missing_engine(ENGINES[name]()) is not None:
        pytest.skip(f"{name} is not installed")
    return ENGINES[name]().quantize(model, fed(images), request)


def wrong(name: EngineName, model: ModelProto, request: QuantizeRequest = PLAIN, images: Array = IMAGES) -> list[str]:
    """Return what is further from the float graph than the noise of 8 bits, in onnxruntime."""
    made = quantized(name, model, request, images)
    held = hold_in_float(made.model, made.reasons.keys())
    onnx.checker.check_model(held, full_check=True)
    exact, noise = expected_noise(model, images, request)
    found = [onnxruntime_outputs(held, images, optimised=optimised) for optimised in (False, True)]
    return [each for outputs in found for each in too_far(exact, noise, outputs)]
