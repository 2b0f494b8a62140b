"""What holds for every network: an int8 file computes what the float graph does but for the noise of 8 bits.

Whatever would not is left in float, with the reason. SECATEUR_EXAMPLES=1000 tries as many networks with each engine,
other ones each time; the default is a few, always the same.
"""

from __future__ import annotations

import os
from random import Random
from typing import TYPE_CHECKING

import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.compress.quantization.engines.engine import QuantizeRequest, missing_engine
from pipeline.compress.quantization.engines.registry import ENGINES, open_engine
from pipeline.compress.quantization.holding import hold_in_float
from tests.defaults import asked
from tests.feeds import fed
from tests.properties.int8_noise import expected_noise, onnxruntime_outputs, openvino_outputs, too_far
from tests.properties.layer_graphs import random_graph

if TYPE_CHECKING:
    from onnx import ModelProto

    from pipeline.compress.quantization.names import EngineName
    from tests.properties.int8_noise import Array

WANTED = os.environ.get("SECATEUR_EXAMPLES")
#: Networks of the short form. To import Neural Compressor alone takes longer than all of these.
FEW: dict[EngineName, int] = {"onnxruntime": 12, "nncf": 2}
SCHEMES = ("u8s8", "s8s8", "u8s8-reduced", "u8u8")
#: With these, sums saturate on x86 processors without VNNI, unless onnxruntime is told otherwise.
SATURATE = ("u8s8", "s8s8")


def problems(random: Random, engine: EngineName) -> list[str]:
    """Return what is wrong with the int8 file that an engine makes of a random network: nothing, if all is right."""
    model, samples = random_graph(random)
    scheme = SCHEMES[random.randrange(4 if engine == "onnxruntime" else 3)]
    symmetric, per_channel = bool(random.randrange(2)), bool(random.randrange(2))
    request = asked(scheme, per_channel=per_channel, symmetric=symmetric, calibration="min-max")  # type: ignore[arg-type]
    exact, noise = expected_noise(model, samples, request)
    quantized = open_engine(engine).quantize(model, fed(samples), request)
    result = hold_in_float(quantized.model, quantized.reasons.keys())
    found = _outputs(result, samples, request)
    exactly = scheme == "u8s8-reduced" and not _multiplies_activations(model)  # sums of 8 by 8 bits saturate there
    if exactly and not list(too_far(exact, noise, openvino_outputs(model, samples))):
        found["openvino"] = openvino_outputs(result, samples)
    return [f"{way}: {wrong} ({request})" for way, outputs in found.items() for wrong in too_far(exact, noise, outputs)]


def _outputs(model: ModelProto, samples: Array, request: QuantizeRequest) -> dict[str, list[Array]]:
    onnx.checker.check_model(model, full_check=True)
    found = {"as it is": onnxruntime_outputs(model, samples, optimised=False)}
    if request.scheme != "s8s8" or not _multiplies_activations(model):  # of these no option widens the sums
        saturates = request.scheme in SATURATE
        found["optimised"] = onnxruntime_outputs(model, samples, optimised=True, saturates=saturates)
    return found


def _multiplies_activations(model: ModelProto) -> bool:
    stored = {tensor.name for tensor in model.graph.initializer}
    weights = {node.output[0] for node in model.graph.node if node.input[:1] and node.input[0] in stored} | stored
    return any(node.op_type == "MatMul" and node.input[1] not in weights for node in model.graph.node)


@pytest.mark.parametrize("engine", ENGINES if WANTED else FEW)
def test_an_int8_file_is_within_the_noise_of_8_bits(engine: EngineName) -> None:
    """In onnxruntime as it is and optimised, and in OpenVINO, with any scheme, symmetric or not, by channel or not."""
    if missing_engine(ENGINES[engine]()) is not None:
        pytest.skip(f"{engine} is not installed")

    @settings(
        max_examples=int(WANTED or FEW[engine]),
        derandomize=WANTED is None,
        deadline=None,
        database=None,
        phases=set(Phase) - {Phase.explain},
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**32 - 1))
    def check(seed: int) -> None:
        assert problems(Random(seed), engine) == []  # noqa: S311 - no secret

    check()


@pytest.mark.parametrize(
    ("engine", "seed"),
    [
        ("onnxruntime", 7293),  # sums a million times a clip's bounds, in OpenVINO
        ("onnxruntime", 7511),  # an addition a million times a clip's bounds
        ("onnxruntime", 20379),  # weights of 1e-28 beside those of 1e4, in OpenVINO
        ("onnxruntime", 21843),  # a softmax over one number
        ("nncf", 32),  # a huge bias on the left of an addition
        ("nncf", 30054),  # smoothed weights below the floor of scales
        ("nncf", 30138),  # smoothed activations below it
        ("nncf", 30263),  # several outputs for each input of a depthwise convolution
        ("nncf", 30288),  # a bias that makes up for weights below the floor
    ],
)
def test_networks_that_were_wrong_once(engine: EngineName, seed: int) -> None:
    """Each for another reason."""
    if missing_engine(ENGINES[engine]()) is not None:
        pytest.skip(f"{engine} is not installed")
    assert problems(Random(seed), engine) == []  # noqa: S311 - no secret
