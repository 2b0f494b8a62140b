"""An ONNX file as OpenVINO IR: `model.xml` and `model.bin`, the same bytes for the same file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import openvino

from pipeline.core.artifact import TensorSpec
from pipeline.core.errors import InputError, first_line
from pipeline.core.paths import kind_of
from pipeline.onnx_graph.file import LAYOUTS, read_onnx, require_size

if TYPE_CHECKING:
    from pathlib import Path

XML_NAME = "model.xml"
#: Where the converter notes the name of the file it read.
_CONVERSION = re.compile(r"\t*<conversion_parameters>.*?</conversion_parameters>\n", re.DOTALL)


def export_openvino(
    source: Path, folder: Path, *, half: bool = False, batch: int | None = None
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Write the IR of an ONNX file (FP32, or int8 in QDQ format) and return its inputs and outputs.

    With `half` the weights are stored as FP16 and converted when the file is loaded: half the size, the same speed.
    `batch` fixes a dynamic batch. Names of inputs and outputs stay; layers keep their ONNX names.

    Raises:
        InputError: OpenVINO cannot read the file.
    """
    known = _names(source)
    try:
        model = openvino.convert_model(source)
    except Exception as error:  # OpenVINO raises bare RuntimeError and its own classes, none of them documented
        raise InputError(f"{source} cannot be converted to OpenVINO IR: {first_line(error)}") from error
    if batch is not None:
        model.reshape({port: [batch, *list(port.partial_shape)[1:]] for port in model.inputs})
    _name_the_unnamed(model, known)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / XML_NAME
    openvino.save_model(model, file, compress_to_fp16=half)
    file.write_text(_CONVERSION.sub("", file.read_text()))
    return openvino_specs(model)


def openvino_specs(model: openvino.Model) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and outputs of a model."""
    return tuple(_spec(port) for port in model.inputs), tuple(_spec(port) for port in model.outputs)


def openvino_ports(file: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and outputs of an IR. Raises InputError when it cannot be read."""
    return openvino_specs(read_openvino(file))


def read_openvino(file: Path) -> openvino.Model:
    """Read an IR. Raises InputError when the file is missing or OpenVINO cannot read it."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; expected an OpenVINO model.xml with its model.bin")
    weights = file.with_suffix(".bin")
    if weights.is_symlink() and not weights.exists():  # OpenVINO ends the process at links in a circle
        raise InputError(f"{weights} is a link to nothing; expected the weights of {file.name}")
    if kind_of(weights) == "no file":  # it would wait for a pipe
        raise InputError(f"{weights} is a pipe or a device; expected the weights of {file.name}")
    try:
        model = openvino.Core().read_model(file)
        names = [operation.get_friendly_name() for operation in model.get_ops()]
    except (RuntimeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not a readable OpenVINO model: {first_line(error)}") from error
    if not (names and model.inputs and model.outputs):
        raise InputError(f"{file} is damaged: it has no input or no output")
    for port in (*model.inputs, *model.outputs):
        if not port.names:  # an IR may leave them out; tensors are asked for by name
            port.get_tensor().set_names({port.node.friendly_name})
        sizes = [-1 if size.is_dynamic else size.get_length() for size in port.partial_shape]
        require_size(port.any_name, sizes, file)
    return model


def _names(source: Path) -> frozenset[str]:
    graph = read_onnx(source).graph
    nodes = {node.name for node in graph.node} | {value for node in graph.node for value in node.output}
    return frozenset(nodes | {tensor.name for tensor in (*graph.initializer, *graph.input)}) - {""}


def _name_the_unnamed(model: openvino.Model, known: frozenset[str]) -> None:
    """Number the operations that the converter added: its own numbers go on counting through the whole process.

    `<name>/<part>` belongs to the ONNX node of that name.
    """
    number = 0
    for operation in model.get_ordered_ops():
        name = operation.get_friendly_name()
        if name in known or name.rpartition("/")[0] in known:
            continue
        number += 1
        operation.set_friendly_name(f"{operation.get_type_name()}/{number}")


def _spec(port: openvino.Output) -> TensorSpec:
    shape = tuple(-1 if dim.is_dynamic else dim.get_length() for dim in port.partial_shape)
    dtype = port.element_type.to_dtype().name
    return TensorSpec(name=port.any_name, shape=shape, dtype=dtype, layout=LAYOUTS.get(len(shape), ""))
