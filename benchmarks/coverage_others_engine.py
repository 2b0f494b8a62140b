"""The engine on one network of another package: pruned and certified, trained for a step, exported, quantized, run.

What fails is recorded with its reason, and the steps after it go on with what there is: the network itself where it
could not be pruned, files for one batch each where none takes any batch.
"""

from __future__ import annotations

import time
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import coverage_engine
import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
import torch
from coverage_cost import macs
from coverage_engine import shrink, source
from coverage_others import build, example, load
from coverage_worker import CHARACTERS, leaves, parameter_bytes

from pipeline.compress.quantization.engines.engine import QuantizeRequest
from pipeline.compress.quantization.engines.onnxruntime import OnnxRuntime
from pipeline.compress.quantization.placement import require_float_and_folded
from pipeline.compress.training.inference import forward_outputs
from pipeline.core.artifact import TensorSpec
from pipeline.core.errors import StageError
from pipeline.export.onnx import FILE_NAME, export_onnx
from pipeline.export.parity import relative
from pipeline.export.simplify import simplify_onnx
from pipeline.onnx_graph.file import finish_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coverage_others import Other
    from coverage_worker import Record
    from numpy.typing import NDArray
    from torch import Tensor, nn

    Arrays = list[NDArray[np.float32]]

BATCHES = (1, 3)
RUNTIMES = ("onnxruntime", "openvino")
#: Random inputs that ranges are taken from.
CALIBRATION = 16
DECIBELS_OF_EQUAL = 150.0


def warm(networks: Sequence[Other]) -> None:
    """Load what the networks need, so that seconds are their own."""
    coverage_engine.warm()
    load(networks)


def run(entry: Other, record: Record) -> None:
    """Do all steps with one network."""
    with record.phase("build"):
        model, inputs = build(entry)
    record.add(source=source(), parameter_bytes=parameter_bytes(model))
    pruned = _try(record, "prune", lambda: _pruned(model, inputs, record)) or model
    _try(record, "train", lambda: record.add(train=_trained(pruned, inputs)))
    with TemporaryDirectory() as path:
        files = _try(record, "export", lambda: _exported(pruned, entry, Path(path), record))
        if not files:
            return
        _try(record, "run", lambda: record.add(run=_compared(pruned, entry, files, _relative)))
        if len(inputs) > 1 or not inputs[0].is_floating_point():
            record.add(int8_error="several inputs: quantize takes networks with one")
            return
        small = _try(record, "int8", lambda: _quantized(entry, files, Path(path), record))
        if small:
            _try(record, "int8_run", lambda: record.add(int8_run=_compared(pruned, entry, small, _decibels)))


def _try(record: Record, step: str, action: Callable[[], Any]) -> Any:  # noqa: ANN401 (what the step gives)
    """Take a step and its CPU seconds; an exception is recorded as `<step>_error`."""
    start = time.process_time()
    try:
        return action()
    except Exception as error:  # noqa: BLE001 (a failure is a result of this benchmark)
        record.add(**{f"{step}_error": f"{type(error).__name__}: {error}"[:CHARACTERS]})
        return None
    finally:
        record.values["seconds"][step] = round(time.process_time() - start, 3)


def _pruned(model: nn.Module, inputs: tuple[Tensor, ...], record: Record) -> nn.Module:
    """Remove half of every group, certified."""
    pruned, graph = shrink(model, inputs, record)
    record.add(
        macs={"before": macs(model, inputs), "after": macs(pruned, inputs)},
        parameters_after=parameter_bytes(pruned),
        verdict="exact" if graph.groups else "nothing to prune",
    )
    return pruned


def _trained(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
    """Take one step of SGD in training mode on a copy; return the loss, and the share of the parameters that moved."""
    copy = deepcopy(model).train()
    for parameter in copy.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    optimizer = torch.optim.SGD(copy.parameters(), lr=1e-3)
    before = [parameter.detach().clone() for parameter in copy.parameters()]
    loss = sum(
        leaf.square().mean() for leaf in leaves(copy(*(each.clone() for each in inputs))) if leaf.is_floating_point()
    )
    loss.backward()
    optimizer.step()
    moved = sum(not torch.equal(*pair) for pair in zip(before, copy.parameters(), strict=True))
    if not torch.isfinite(loss) or not moved:
        raise ValueError(f"loss {float(loss)}, {moved} of {len(before)} parameters moved")
    return {"loss": float(f"{float(loss):.4g}"), "moved": round(moved / len(before), 3)}


def _exported(model: nn.Module, entry: Other, folder: Path, record: Record) -> dict[int, Path]:
    """Return the ONNX file for each batch: one for any, or where that fails one for each."""
    inputs = example(entry, 2)
    single = len(inputs) == 1 and inputs[0].is_floating_point()
    try:
        file = _file(model, inputs, folder / "any", dynamic=True, single=single)
        record.add(batch="any")
        return dict.fromkeys(BATCHES, file)
    except Exception as error:  # noqa: BLE001 (the finding)
        record.add(batch="fixed", dynamic_error=f"{type(error).__name__}: {error}"[:CHARACTERS])
    return {
        batch: _file(model, example(entry, batch), folder / str(batch), dynamic=False, single=single)
        for batch in BATCHES
    }


def _file(model: nn.Module, inputs: tuple[Tensor, ...], folder: Path, *, dynamic: bool, single: bool) -> Path:
    """Export by the program where the network has one float input, by torch's exporter alone where it has others."""
    folder.mkdir()
    file = folder / FILE_NAME
    if single:
        names = [f"output{index}" for index in range(len(forward_outputs(model, inputs)))]
        export_onnx(
            model, folder, [TensorSpec(name="image", shape=tuple(inputs[0].shape))], names, dynamic_batch=dynamic
        )
        return file
    shapes = tuple({0: torch.export.Dim("batch")} for _ in inputs) if dynamic else None
    program = torch.onnx.export(model, inputs, dynamo=True, verbose=False, dynamic_shapes=shapes)
    onnx.save(finish_model(program.model_proto), file)  # type: ignore[union-attr]
    return file


def _quantized(entry: Other, files: dict[int, Path], folder: Path, record: Record) -> dict[int, Path]:
    """Write the int8 file of each: weights in 7 bits by channel, so that sums are right on every processor."""
    made: dict[int, Path] = {}
    for file in dict.fromkeys(files.values()):
        samples = example(entry, CALIBRATION - CALIBRATION % 3 if file == files[3] != files[1] else CALIBRATION)[0]
        request = QuantizeRequest(
            "u8s8-reduced", per_channel=True, symmetric=False, calibration="min-max", percentile=100, keep=()
        )
        found = OnnxRuntime().quantize(_folded(file, samples.numpy()), {"image": samples.numpy()}, request)
        record.add(int8={"nodes": found.nodes, "float": len(found.float_nodes)})
        target = file.with_name("int8.onnx")
        onnx.save(found.model, target)
        made |= {batch: target for batch, each in files.items() if each == file}
    del folder
    return made


def _folded(file: Path, samples: NDArray[np.float32]) -> onnx.ModelProto:
    """Return the graph, simplified where batch norm stands behind a convolution yet."""
    try:
        require_float_and_folded(onnx.load(file))
    except StageError:
        simplify_onnx(file, file.with_name("simple.onnx"), {"image": samples})
        return onnx.load(file.with_name("simple.onnx"))
    return onnx.load(file)


def _compared(
    model: nn.Module, entry: Other, files: dict[int, Path], distance: Callable[[Arrays, Arrays], float]
) -> dict[str, float]:
    """Return the distance of each runtime's outputs from torch's, by runtime and batch, on inputs of their own."""
    found: dict[str, float] = {}
    for batch, file in files.items():
        inputs = example(entry, batch)
        wanted = [tensor.numpy() for tensor in forward_outputs(model, inputs) if tensor.is_floating_point()]
        for runtime in RUNTIMES:
            found[f"{runtime} {batch}"] = float(f"{distance(wanted, _outputs(file, inputs, runtime)):.3g}")
    return found


def _outputs(file: Path, inputs: Sequence[Tensor], runtime: str) -> Arrays:
    """Run a file, optimised as it is used, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feeds = {given.name: tensor.numpy() for given, tensor in zip(session.get_inputs(), inputs, strict=True)}
    if runtime == "openvino":
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        results = [*ov.Core().compile_model(str(file), "CPU", settings)(feeds).values()]
    else:
        results = session.run(None, feeds)
    return [each for each in results if each.dtype == np.float32]


def _relative(wanted: Arrays, found: Arrays) -> float:
    """Return the largest difference relative to the scale of its output."""
    return max(relative(one, other) for one, other in zip(wanted, found, strict=True))


def _decibels(wanted: Arrays, found: Arrays) -> float:
    """Return the ratio of signal to noise over all outputs, in dB; that of the worst output."""
    return min(_ratio(one.astype(np.float64), other) for one, other in zip(wanted, found, strict=True))


def _ratio(wanted: NDArray[np.float64], found: NDArray[np.float32]) -> float:
    power, noise = float(np.square(wanted).sum()), float(np.square(wanted - found).sum())
    if not np.isfinite(noise):
        return -DECIBELS_OF_EQUAL
    return DECIBELS_OF_EQUAL if noise == 0 else 10 * float(np.log10(power / noise)) if power else -DECIBELS_OF_EQUAL
