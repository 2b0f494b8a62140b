"""What every quantization engine promises: a valid QDQ file near the float one, always the same, or a clear refusal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, get_args

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from pipeline.compress.quantization.engines import engine as interface
from pipeline.compress.quantization.engines.registry import ENGINES, available, open_engine
from pipeline.compress.quantization.names import EngineName
from pipeline.core.errors import InputError
from pipeline.export.onnx import export_onnx
from pipeline.measure.machine import machine_fingerprint
from pipeline.precision.targets import target_facts
from tests.defaults import asked
from tests.feeds import fed, image_input
from tests.optional import require
from tests.unit.compress.pruning.networks import Net, conv

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from onnx import ModelProto

    from pipeline.compress.quantization.engines.engine import QuantizedGraph, QuantizeRequest

    Outputs = NDArray[np.float32]

SAMPLES = np.random.default_rng(0).standard_normal((6, 3, 8, 8), dtype=np.float32)
PLAIN = asked("u8s8", calibration="min-max")
#: Seven bits where sums of eight saturate, for which OpenVINO has no setting.
SATURATES = target_facts(machine_fingerprint(), "openvino").saturates
IN_OPENVINO = asked("u8s8-reduced", calibration="min-max") if SATURATES else PLAIN
#: Outputs of quantized files are at least this near to those of the float file, in dB; random weights give 40 and more.
NEAR = 30.0
#: And integer kernels this near to the same file in float arithmetic.
EXACT = 40.0
#: Two ways to divide by a scale differ where a value lies in the middle between two numbers.
SIMULATED = 50.0


def residual(layers: Net, x: Tensor) -> Tensor:
    """Return logits of a residual network whose second block changes shape."""
    x = layers.stem(x).relu()
    x = (layers.b(layers.a(x).relu()) + x).relu()
    return layers.fc((layers.d(layers.c(x).relu()) + layers.shortcut(x)).relu().mean((2, 3)))


def depthwise(layers: Net, x: Tensor) -> Tensor:
    """Return logits of an inverted residual block with ReLU6."""
    x = functional.relu6(layers.stem(x))
    hidden = functional.relu6(layers.middle(functional.relu6(layers.expand(x))))
    return layers.fc(functional.relu6(x + layers.project(hidden)).mean((2, 3)))


def gated(layers: Net, x: Tensor) -> Tensor:
    """Return logits of a squeeze-and-excitation block between SiLU and hard-swish."""
    x = functional.silu(layers.stem(x))
    gate = layers.grow(layers.shrink(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
    return layers.fc(functional.hardswish(layers.out(functional.max_pool2d(x * gate, 2))).mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": lambda: Net(
        residual,
        stem=conv(3, 16),
        a=conv(16, 16),
        b=conv(16, 16),
        c=conv(16, 32, stride=2),
        d=conv(32, 32),
        shortcut=conv(16, 32, 1, 2),
        fc=nn.Linear(32, 10),
    ),
    "depthwise": lambda: Net(
        depthwise,
        stem=conv(3, 16),
        expand=conv(16, 32, 1),
        middle=conv(32, 32, groups=32),
        project=conv(32, 16, 1),
        fc=nn.Linear(16, 10),
    ),
    "gated": lambda: Net(
        gated, stem=conv(3, 16), shrink=conv(16, 4, 1), grow=conv(4, 16, 1), out=conv(16, 24), fc=nn.Linear(24, 10)
    ),
}
each_engine = pytest.mark.parametrize("name", ENGINES)
each_network = pytest.mark.parametrize("network", NETWORKS)


@cache
def exported(network: str, batch: int = 1) -> ModelProto:
    """Return the float graph."""
    torch.manual_seed(1)
    with TemporaryDirectory() as folder:
        export_onnx(NETWORKS[network]().eval(), Path(folder), image_input((batch, 3, 8, 8)))
        return onnx.load(Path(folder) / "model.onnx")


@cache
def quantized(name: EngineName, network: str, request: QuantizeRequest = PLAIN, batch: int = 1) -> QuantizedGraph:
    """Return what an engine makes of a network; the test is skipped where its package is missing."""
    command = interface.missing_engine(ENGINES[name]())
    if command is not None:
        pytest.skip(f"{name} is not installed: {command}")
    return open_engine(name).quantize(exported(network, batch), fed(SAMPLES), request)


def outputs(model: ModelProto, *, optimised: bool = True) -> Outputs:
    """Return the outputs of onnxruntime for all samples, with sums that do not saturate on processors without VNNI."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": image[None]})[0] for image in SAMPLES])


def nearness(expected: Outputs, found: Outputs) -> float:
    """Return the signal-to-noise ratio in dB."""
    return float(10 * np.log10(np.square(expected).sum() / max(np.square(expected - found).sum(), 1e-20)))


def stored(model: ModelProto) -> dict[str, NDArray[np.generic]]:
    """Return the stored tensors by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def operators_at_run_time(model: ModelProto, file: Path) -> Counter[str]:
    """Return how many nodes of each operator onnxruntime runs after all its optimisations."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(file)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(file).graph.node)


def test_every_engine_is_listed_and_says_what_it_is() -> None:
    """The mapping has the names of the interface, and each adapter names its package."""
    assert set(ENGINES) == set(get_args(EngineName))
    for name, make in ENGINES.items():
        engine = make()
        assert engine.name == name
        assert engine.package
        assert engine.module == name.replace("-", "_")  # by which a recipe's check finds out whether it is installed


@each_engine
@each_network
def test_the_file_is_valid_and_near_to_the_float_one(name: EngineName, network: str) -> None:
    """It passes the checker, and both runtimes compute about what the float file does."""
    model, expected = quantized(name, network).model, outputs(exported(network))
    onnx.checker.check_model(model, full_check=True)
    assert nearness(expected, outputs(model)) > NEAR
    core, model = openvino.Core(), quantized(name, network, IN_OPENVINO).model
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    assert nearness(expected, np.concatenate([compiled(image[None])[0] for image in SAMPLES])) > NEAR


@each_engine
@each_network
def test_integer_kernels_compute_what_the_file_says(name: EngineName, network: str) -> None:
    """Without optimisations onnxruntime emulates a QDQ file in float: the integers give the same but for rounding."""
    model = quantized(name, network).model
    assert nearness(outputs(model, optimised=False), outputs(model)) > EXACT


@each_network
def test_neural_compressors_own_simulation_agrees(network: str) -> None:
    """Its torch graph and the pairs that were read from it, before any other is added, compute the same in float."""
    require("neural_compressor")
    from pipeline.compress.quantization.engines import neural_compressor, pt2e  # noqa: PLC0415 - loads torch

    model = onnx.ModelProto()
    model.CopyFrom(exported(network))
    simulated, found = neural_compressor.simulate(model, fed(SAMPLES), PLAIN)
    pt2e.place_pairs(model.graph, found, frozenset())
    expected = np.concatenate([simulated(torch.from_numpy(image[None])).detach().numpy() for image in SAMPLES])
    assert len(found.weights) == sum(node.op_type in {"Conv", "Gemm"} for node in model.graph.node)
    assert nearness(expected, outputs(model, optimised=False)) > SIMULATED


@each_engine
@each_network
def test_what_is_counted_as_quantized_runs_on_integers(name: EngineName, network: str, tmp_path: Path) -> None:
    """Convolutions, additions and the last product; nothing but what `float_nodes` names is left over."""
    result = quantized(name, network)
    run = operators_at_run_time(result.model, tmp_path / "optimised.onnx")
    assert run["QLinearConv"] == result.nodes["Conv"]
    assert run["QLinearAdd"] == result.nodes.get("Add", 0)
    assert run["QGemm"] == result.nodes["Gemm"] == 1
    names = {node.name for node in exported(network).graph.node}
    assert names >= set(result.float_nodes)


@each_engine
def test_weights_have_a_scale_for_each_channel_and_activations_one_type(name: EngineName) -> None:
    """Both follow from the scheme; no float weight is left in the file."""
    model = quantized(name, "residual").model
    tensors = stored(model)
    points = {tensors[node.input[2]].dtype for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert points == {np.dtype(np.uint8)}
    kernels = {array.dtype for array in tensors.values() if array.ndim == 4}
    assert kernels == {np.dtype(np.int8)}
    scales = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in tensors]
    assert {tensors[node.input[1]].size for node in scales} == {10, 16, 32}


@each_engine
@pytest.mark.parametrize(
    "request_",
    [asked("s8s8", symmetric=True, calibration="min-max"), asked("u8s8", symmetric=True, calibration="mse")],
)
def test_symmetric_ranges_have_their_zero_points_in_the_middle(name: EngineName, request_: QuantizeRequest) -> None:
    """Also those of tensors that are never negative."""
    model = quantized(name, "residual", request_).model
    tensors = stored(model)
    points = {int(tensors[node.input[2]]) for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert points <= ({0} if request_.scheme == "s8s8" else {127, 128})
    assert nearness(outputs(exported("residual")), outputs(model)) > NEAR


@each_engine
def test_reduced_weights_use_seven_bits(name: EngineName) -> None:
    """So that two products fit into 16 bits."""
    model = quantized(name, "residual", asked("u8s8-reduced", calibration="min-max")).model
    kernels = [array for array in stored(model).values() if array.ndim == 4]
    assert max(int(np.abs(kernel.astype(int)).max()) for kernel in kernels) in {63, 64}
    assert nearness(outputs(exported("residual")), outputs(model)) > NEAR


@each_engine
def test_one_scale_for_a_whole_weight(name: EngineName) -> None:
    """If that is asked for."""
    model = quantized(name, "residual", asked("u8s8", per_channel=False, calibration="min-max")).model
    tensors = stored(model)
    scales = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in tensors]
    assert {tensors[node.input[1]].size for node in scales if tensors[node.input[0]].dtype == np.int8} == {1}
    assert nearness(outputs(exported("residual")), outputs(model)) > NEAR


@each_engine
def test_nodes_to_keep_stay_in_float(name: EngineName) -> None:
    """Their weights are those of the float file, and they are named as float."""
    result = quantized(name, "residual", asked("u8s8", calibration="min-max", keep=("stem", "d*")))
    before, after = stored(exported("residual")), stored(result.model)
    assert {"stem", "d"} <= set(result.float_nodes)
    assert result.nodes["Conv"] == 4
    for kernel in ("stem.weight", "d.weight"):
        np.testing.assert_array_equal(after[kernel], before[kernel])


@each_engine
def test_every_image_counts(name: EngineName) -> None:
    """The range of the input is that of all images, wherever the widest one stands; the batch does not matter."""
    for batch in (1, 4):
        model = quantized(name, "residual", batch=batch).model
        first = next(node for node in model.graph.node if node.input[0] == "input")
        scale = float(stored(model)[first.input[1]])
        assert scale == pytest.approx((SAMPLES.max() - SAMPLES.min()) / 255, rel=0.02)


@each_engine
def test_the_given_graph_stays_as_it_is(name: EngineName) -> None:
    """Engines work on copies."""
    before = exported("gated").SerializeToString(deterministic=True)
    quantized(name, "gated")
    assert exported("gated").SerializeToString(deterministic=True) == before


@each_engine
def test_the_same_again_gives_the_same_bytes_and_prints_nothing(
    name: EngineName, capfd: pytest.CaptureFixture[str]
) -> None:
    """Progress bars and log lines of vendors are kept away."""
    first = quantized(name, "gated").model
    capfd.readouterr()
    again = open_engine(name).quantize(exported("gated"), fed(SAMPLES), PLAIN).model
    assert again.SerializeToString(deterministic=True) == first.SerializeToString(deterministic=True)
    assert capfd.readouterr() == ("", "")


SCRIPT = """
import hashlib, socket, sys
import numpy as np, onnx
def refuse(*_):
    raise AssertionError("an engine opened a connection")
socket.socket.connect = socket.getaddrinfo = refuse
from pipeline.compress.quantization.engines.engine import QuantizeRequest
from pipeline.compress.quantization.engines.registry import open_engine
samples = np.random.default_rng(0).standard_normal((6, 3, 8, 8), dtype=np.float32)
request = QuantizeRequest("u8s8", per_channel=True, symmetric=False, calibration="min-max", percentile=100, keep=())
model = open_engine(sys.argv[1]).quantize(onnx.load(sys.argv[2]), {"input": samples}, request).model
print(hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest())
if sys.argv[1] == "nncf":
    from nncf.telemetry import telemetry
    assert type(telemetry).__name__ == "MagicMock", "telemetry is on"
"""


@pytest.mark.slow
@each_engine
def test_another_process_gives_the_same_bytes_and_opens_no_connection(name: EngineName, tmp_path: Path) -> None:
    """Whatever the order of its sets is; and outside of tests, where vendors might send statistics."""
    model = quantized(name, "gated").model
    onnx.save(exported("gated"), tmp_path / "float.onnx")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("NNCF", "PYTEST"))}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, str(tmp_path / "float.onnx")],
        env={**environment, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    file = tmp_path / "quantized.onnx"
    file.write_bytes(model.SerializeToString(deterministic=True))
    import hashlib  # noqa: PLC0415

    assert run.stdout.split()[-1] == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "request_", "says"),
    [
        ("nncf", asked("u8u8"), "possible are u8s8, u8s8-reduced, s8s8"),
        ("nncf", asked("u8s8", calibration="entropy"), "possible are min-max, mse, percentile"),
        ("neural-compressor", asked("u8u8", calibration="min-max"), "possible are u8s8, u8s8-reduced, s8s8"),
        ("neural-compressor", asked("u8s8", calibration="percentile"), "possible are min-max, mse"),
        ("neural-compressor", asked("u8s8", calibration="entropy"), "possible are min-max, mse"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(name: EngineName, request_: QuantizeRequest, says: str) -> None:
    """With what it can do instead."""
    with pytest.raises(InputError, match=says):
        ENGINES[name]().quantize(exported("residual"), fed(SAMPLES), request_)


@each_engine
def test_a_pattern_without_a_match_is_refused(name: EngineName) -> None:
    """It would have no effect."""
    with pytest.raises(InputError, match='"head" matches no node'):
        ENGINES[name]().quantize(
            exported("residual"),
            fed(SAMPLES),
            asked("u8s8", calibration="min-max", keep=("head",)),
        )


@each_engine
def test_a_quantized_file_is_refused(name: EngineName) -> None:
    """Also when another engine made it."""
    given = quantized("onnxruntime", "residual").model
    with pytest.raises(InputError, match="quantized already"):
        ENGINES[name]().quantize(given, fed(SAMPLES), PLAIN)


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening the engine says how to install it; listing the engines leaves it out."""
    monkeypatch.setattr(interface, "find_spec", lambda module: None if module == "nncf" else module)
    with pytest.raises(InputError, match=r"nncf, which is not installed: pip install 'secateur\[nncf\]'"):
        open_engine("nncf")
    assert available() == ("onnxruntime", "neural-compressor")
