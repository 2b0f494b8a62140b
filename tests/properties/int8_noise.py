"""How far an int8 file may be from the float graph, and how far it is.

The yardstick is the float graph with noise: each tensor is moved by a random number of up to half a step of the 8 bits
that its range on the samples allows, each weight by up to half a step of its own. That is what rounding does at best.
What a file adds beyond FACTOR times that is no rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

from pipeline.compress.quantization.canonical import output_axis
from pipeline.compress.quantization.ranges import MASKED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from pipeline.compress.quantization.engines.engine import QuantizeRequest

    Array = NDArray[Any]

#: A tensor may pass two pairs, on scales a little off the ideal ones, and where inputs are constant all samples err
#: alike, up to half a step: that is 1.4 times 1.7 times the noise of one pair, and twice that for bad luck.
FACTOR = 5.0
#: A channel without noise of its own may have this share of that of all.
SHARE = 0.5
#: And this share of what the channel holds: biases have 30 bits, and sums are rounded to floats.
EXACT = 1e-5
#: Below this the scales of sums are no normal floats.
NOTHING = 1e-24
DRAWS = 5
#: Their constants are rounded like activations.
SUMS = ("Add", "Mul")
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def onnxruntime_outputs(model: ModelProto, samples: Array, *, optimised: bool, saturates: bool = False) -> list[Array]:
    """Return each output for all samples; sums that `saturates` says would on processors without VNNI do not here."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if saturates and optimised:
        options.add_session_config_entry("session.x64quantprecision", "1")
        model = _unshared(model)
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = [session.run(None, {"input": image[None]}) for image in samples]
    return [np.concatenate(each) for each in zip(*found, strict=True)]


def _unshared(model: ModelProto) -> ModelProto:
    """Return a copy in which no two nodes read one stored tensor: with that option onnxruntime 1.31 loads no other."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    seen: set[str] = set()
    nodes = []
    for node in copy.graph.node:
        for place, value in enumerate(node.input):
            maker = makers.get(value)
            if node.op_type in PRODUCTS and maker is not None and maker.input[0] in stored:
                if value in seen:
                    new, number = onnx.NodeProto(), len(nodes)
                    new.CopyFrom(maker)
                    for part, name in enumerate(maker.input):
                        copy.graph.initializer.add().CopyFrom(stored[name])
                        new.input[part] = copy.graph.initializer[-1].name = f"{name}.{number}"
                    new.name = new.output[0] = node.input[place] = f"{value}.{number}"
                    nodes.append(new)
                seen.add(value)
        nodes.append(node)
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(ordered)
    return copy


def openvino_outputs(model: ModelProto, samples: Array) -> list[Array]:
    """Return the same by OpenVINO."""
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
    found = [[np.array(value) for value in compiled(image[None]).values()] for image in samples]
    return [np.concatenate(each) for each in zip(*found, strict=True)]


def expected_noise(model: ModelProto, samples: Array, request: QuantizeRequest) -> tuple[list[Array], list[Array]]:
    """Return the float outputs, and for each the root mean square [channels] of what rounding at best adds."""
    exact = onnxruntime_outputs(model, samples, optimised=False)
    names = [value for node in model.graph.node for value in node.output]
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    declared = {value.name for value in model.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in declared)
    order = [value.name for value in exposed.graph.output]
    values = dict(zip(order, onnxruntime_outputs(exposed, samples, optimised=False), strict=True)) | {"input": samples}
    noises = []
    for draw in range(DRAWS):
        noisy = onnxruntime_outputs(_noisy(model, values, request, draw), samples, optimised=False)
        noises.append([rms(a, b) for a, b in zip(exact, noisy, strict=True)])
    return exact, [np.sqrt(np.square(each).mean(axis=0)) for each in zip(*noises, strict=True)]


def rms(a: Array, b: Array) -> Array:
    """Return the root of the mean squared difference [channels] of two outputs [samples, channels, ...]."""
    difference = np.square(a.astype(np.float64) - b.astype(np.float64))
    found: Array = np.sqrt(difference.mean(axis=(0, *range(2, a.ndim))))
    return found


def too_far(exact: Sequence[Array], noise: Sequence[Array], found: Sequence[Array]) -> Iterator[str]:
    """Yield what is wrong with outputs that should be `exact` but for noise."""
    for index, (expected, allowed, given) in enumerate(zip(exact, noise, found, strict=True)):
        if given.shape != expected.shape:
            yield f"output {index} has the shape {given.shape}, not {expected.shape}"
            continue
        if not np.isfinite(given).all():
            yield f"output {index} is not finite"
            continue
        own = np.sqrt(np.square(expected.astype(np.float64)).mean(axis=(0, *range(2, expected.ndim))))
        bound = FACTOR * np.maximum(allowed, SHARE * np.sqrt(np.square(allowed).mean())) + EXACT * own + NOTHING
        error = rms(expected, given)
        if (error > bound).any():
            worst = int(np.argmax(error / np.maximum(bound, 1e-300)))
            yield (
                f"output {index}, channel {worst}: error {error[worst]:.3g}, bound {bound[worst]:.3g}, "
                f"size {own[worst]:.3g}"
            )


def _noisy(model: ModelProto, values: dict[str, Array], request: QuantizeRequest, seed: int) -> ModelProto:
    """Return the graph with noise added to everything that 8 bits would round; the batch is one sample."""
    rng = np.random.default_rng(seed)
    noisy = onnx.ModelProto()
    noisy.CopyFrom(model)
    graph = noisy.graph
    _move_weights(noisy, request, rng)
    names: dict[str, str] = {}
    nodes = []
    scores = {node.input[0] for node in graph.node if node.op_type == "Softmax"}
    usable = (value for value, array in values.items() if value not in scores or array.min() > MASKED)
    moved = {value: step_of(values[value], request) for value in usable if values[value].dtype == np.float32}

    def add(value: str) -> None:
        shape = (1, *values[value].shape[1:])
        whole = (1, shape[1], *[1] * (len(shape) - 2))  # where a channel holds one number, all of it errs alike
        array = ((rng.uniform(-0.5, 0.5, shape) + rng.uniform(-0.5, 0.5, whole)) * moved[value]).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(array, f"{value}.noise"))
        names[value] = f"{value}.noisy"
        nodes.append(helper.make_node("Add", [value, f"{value}.noise"], [names[value]]))

    outputs = {value.name: value for value in graph.output}
    add("input")
    for node in list(graph.node):
        node.input[:] = [names.get(value, value) for value in node.input]
        nodes.append(node)
        for value in node.output:
            if moved.get(value, 0) > 0:
                add(value)
    del graph.node[:]
    graph.node.extend(nodes)
    for name, value in outputs.items():
        value.name = names.get(name, name)
    del graph.value_info[:]
    return noisy


def step_of(array: Array, request: QuantizeRequest) -> float:
    """Return the step of 8 bits on the range of a tensor; 0 for one that holds what is not finite."""
    finite = array[np.isfinite(array) & (np.abs(array) < 1e30)].astype(np.float64)
    if not finite.size or array.size > finite.size:
        return 0.0
    low, high = min(finite.min(), 0.0), max(finite.max(), 0.0)
    return float(2 * max(-low, high) / 254 if request.symmetric else (high - low) / 255)


def _move_weights(model: ModelProto, request: QuantizeRequest, rng: np.random.Generator) -> None:
    largest = 64 if request.scheme == "u8s8-reduced" else 127
    axes = {node.input[1]: output_axis(node) for node in model.graph.node if node.op_type in PRODUCTS}
    scores = {node.input[0] for node in model.graph.node if node.op_type == "Softmax"}
    sums = [node for node in model.graph.node if node.op_type in SUMS and node.output[0] not in scores]
    added = {name for node in sums for name in node.input}
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if tensor.data_type == TensorProto.FLOAT and tensor.name in added:
            moved = array + rng.uniform(-0.5, 0.5, array.shape) * step_of(array, request)
            tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), tensor.name))
        if tensor.data_type != TensorProto.FLOAT or tensor.name not in axes or array.ndim < 2:
            continue
        dims = tuple(dim for dim in range(array.ndim) if dim != axes[tensor.name] % array.ndim)
        step = np.abs(array).max(axis=dims if request.per_channel else None, keepdims=True) / largest
        moved = array + rng.uniform(-0.5, 0.5, array.shape) * step
        tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), tensor.name))
