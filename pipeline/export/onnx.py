"""A torch network as one ONNX file: named after its modules, and the same bytes for the same weights.

The exporter of torch 2 (`torch.export`, then translation) records stack traces, source paths and running numbers in the
file. They are taken out, and every node gets the name of the module it computes: `stage1.0.conv1`, or the module and
the operator (`stage1.0.Relu`) where a module has no weight or has several nodes. The same names are then found in
quantized files and in OpenVINO's, so a message can point at a layer of the network.
"""

from __future__ import annotations

import ast
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from onnx import AttributeProto
from torch.onnx._internal.exporter._errors import ConversionError

from pipeline.compress.state.reproduction import left_unchanged
from pipeline.compress.training.inference import named_outputs
from pipeline.core.errors import InputError, first_line
from pipeline.core.open_sizes import NOTHING_OPEN
from pipeline.core.quiet import quiet_libraries
from pipeline.core.user_code import error_origin, quoted_line
from pipeline.export.any_batch import takes_other_batch
from pipeline.export.attention import spelled_out
from pipeline.export.function_modes import fit_for_export
from pipeline.export.operator_table import kept_operators
from pipeline.onnx_graph.file import finish_model, onnx_specs, write_onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnx import GraphProto, ModelProto, NodeProto
    from torch import Tensor, nn
    from torch.export import ExportedProgram
    from torch.onnx import ONNXProgram

    from pipeline.core.artifact import TensorSpec
    from pipeline.core.open_sizes import OpenSizes

FILE_NAME = "model.onnx"
_DEFAULT_OPSET = 20
#: Where torch keeps the path of modules that a node was traced in, outermost first; the last entry is the operation.
_SCOPE_KEY = "pkg.torch.onnx.name_scopes"
_BIAS_INPUT = 2
#: What torch warns of that this program sees to.
_TREES = (r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
_ASSIGNED = (r"The tensor attributes? self\.|# The axis name: \w+ will not be used", UserWarning)
#: Lines here are not the network's.
OTHERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")


def export_onnx(
    model: nn.Module,
    folder: Path,
    inputs: Sequence[TensorSpec],
    output_names: Sequence[str] = (),
    *,
    opset: int = _DEFAULT_OPSET,
    dynamic_batch: bool = False,
    open_sizes: OpenSizes = NOTHING_OPEN,
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Write `model.onnx` into `folder` and return its inputs and outputs.

    The network takes `inputs`, each [N, ...] with the same N, in this order. What it returns, flattened, gets the
    `output_names`; without them those of `named_outputs`. With `dynamic_batch` the file takes any N, with `open_sizes`
    any of these sizes. Batch norm behind a convolution is folded into it. Files of more than 2 GB cannot be written in
    one piece.

    Raises:
        ValueError: a module is in training mode.
        InputError: the network cannot be traced or translated (the message names the line of the definition), has
            other outputs than named, or its code fixes the batch or another size although any was asked for.
    """
    if any(module.training for module in model.modules()):
        raise ValueError("export needs a network in evaluation mode: call eval() first")
    proto = _translate(model, inputs, list(output_names), opset, _dimensions(inputs, open_sizes, batch=dynamic_batch))
    _name_after_modules(proto, frozenset(model.state_dict()))
    finished = finish_model(proto)
    fixed = {spec.name: spec.shape[0] for spec in onnx_specs(finished)[0] if spec.shape[0] > 0}
    if dynamic_batch and fixed:
        raise InputError(
            f"{type(model).__name__} was exported only for a batch of {next(iter(fixed.values()))} ({', '.join(fixed)})"
            ", although any number was asked for: its code fixes the batch size. Export with batch fixed, or read "
            "x.shape[0] where it is needed"
        )
    _require_open(model, onnx_specs(finished)[0], open_sizes)
    write_onnx(finished, folder / FILE_NAME)
    return onnx_specs(finished)


def _dimensions(
    inputs: Sequence[TensorSpec], sizes: OpenSizes, *, batch: bool
) -> tuple[dict[int, torch.export.Dim], ...] | None:
    """Return the open dimensions of each input by axis; None where there is none."""
    named = {name: torch.export.Dim(name) for name in ("batch", *sizes.axes)}
    found = tuple(
        {**({0: named["batch"]} if batch else {}), **{axis: named[size] for axis, size in opened.items()}}
        for opened in (sizes.of_input(spec.name) for spec in inputs)
    )
    return found if any(found) else None


def _require_open(model: nn.Module, inputs: Sequence[TensorSpec], sizes: OpenSizes) -> None:
    """Raise InputError for a size that was to be open and is not in the file."""
    for spec in inputs:
        for axis, size in sizes.of_input(spec.name).items():
            if spec.shape[axis] > 0:
                raise InputError(
                    f"{type(model).__name__} was exported only for {size} {spec.shape[axis]} ({spec.name}), although "
                    "its task leaves that open (dynamic): its code fixes the size. Take it from x.shape in its "
                    f"forward, without int() or a number written out, or take {size} out of `dynamic`"
                )


def _translate(
    model: nn.Module,
    inputs: Sequence[TensorSpec],
    output_names: list[str],
    opset: int,
    shapes: tuple[dict[int, torch.export.Dim], ...] | None,
) -> ModelProto:
    dynamic = shapes is not None and all(0 in each for each in shapes)
    # A traced batch of 1 would be taken for a constant.
    samples = tuple(
        torch.zeros(2 if dynamic else spec.shape[0], *spec.shape[1:], dtype=getattr(torch, spec.dtype))
        for spec in inputs
    )

    def translated(given: nn.Module | ExportedProgram) -> ONNXProgram:
        with quiet_libraries(*_TREES), quiet_libraries(*_ASSIGNED), spelled_out(), fit_for_export(), kept_operators():
            program = torch.onnx.export(
                given,
                samples,
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=[spec.name for spec in inputs],
                output_names=names,
                opset_version=opset,
                dynamic_shapes=shapes,
            )
        if program is None:
            raise TypeError("torch.onnx.export returned no program")
        return program

    try:
        names = output_names or _names_of_outputs(model, samples)
        program = translated(model)
        if dynamic and not takes_other_batch(program.exported_program, model, samples):
            program = _read_from_code(model, samples, translated) or program
    except BaseException as error:
        reason = _reason(error)
        if not reason:
            raise
        if kept := _kept_names(model):
            reason = (
                f"torch.fx keeps the name {kept[0]}, which a layer or parameter of it has: give it another in the "
                f"network's code and weights, such as {kept[0]}_layer"
            )
        given = " and ".join(str(list(each.shape)) for each in samples)
        raise InputError(f"{type(model).__name__} with input {given} cannot be exported to ONNX: {reason}") from error
    found = len(program.model_proto.graph.output)
    if found != len(names):
        raise InputError(f"{type(model).__name__} has {found} outputs, expected {len(names)}: {', '.join(names)}")
    graph = program.model_proto.graph
    computed = {name for node in graph.node for name in node.output}
    if idle := [output.name for output in graph.output if output.name not in computed]:
        raise InputError(
            f"{type(model).__name__} computes nothing for {', '.join(idle)}: it is a constant or an input as it is. "
            "Return what its layers compute"
        )
    return program.model_proto


def _kept_names(model: nn.Module) -> list[str]:
    """Return the names of layers and parameters at the top of a network that the graphs of torch.fx use themselves."""
    own = {name for name, _ in (*model.named_children(), *model.named_parameters(recurse=False))}
    own |= {name for name, _ in model.named_buffers(recurse=False)}
    kept = {"meta", "range_constraints", *dir(torch.fx.GraphModule)} - {*dir(torch.nn.Module)}
    return sorted(own & kept)


def _names_of_outputs(model: nn.Module, samples: tuple[Tensor, ...]) -> list[str]:
    with left_unchanged(model), torch.no_grad():
        return [*named_outputs(model(*(each.clone() for each in samples)))]


def _read_from_code(
    model: nn.Module, samples: tuple[Tensor, ...], translated: Callable[[ExportedProgram], ONNXProgram]
) -> ONNXProgram | None:
    """Return what torch makes of the network's code instead of its run, where that is right for other batches."""
    batch = tuple({0: torch.export.Dim.AUTO} for _ in samples)
    try:
        with quiet_libraries(*_TREES), quiet_libraries(*_ASSIGNED), spelled_out():
            read = torch.export.export(model, samples, dynamic_shapes=batch, strict=True)
        program = translated(read)
    except Exception:  # noqa: BLE001 - this way takes fewer networks, and parity judges the other
        return None
    return program if takes_other_batch(program.exported_program, model, samples) else None


def _reason(error: BaseException) -> str:
    """Say what the network's own code raised, which operator the exporter lacks, or what it cannot trace, and where.

    Empty for an interruption.
    """
    found = error_origin(error, layers=False)
    if found and found.own:
        return f"its code fails for the example: {found}"
    if not isinstance(error, Exception):
        return ""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(error, ConversionError):  # the graph was captured: its nodes quote their lines
        place = quoted_line(str(cause)) or quoted_line(str(error))
        at = f" at {place}" if place else ""
        return (
            f"torch's exporter has no translation for an operation of it{at}: {first_line(cause)}. Expected operators "
            "that ONNX has: write this one in simpler ones"
        )
    at = f" at {found.place}" if found else _library_line(cause)
    return (
        f"{first_line(cause)}{at}. The forward pass must consist of tensor operations: no branch on a tensor's value, "
        "no numpy, no operator that ONNX lacks."
    )


def _library_line(error: BaseException) -> str:
    """Return the innermost line outside torch and this package, for networks that no file of the user's defines."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(OTHERS)]
    return f" at {Path(own[-1].filename).name}:{own[-1].lineno} `{own[-1].line}`" if own else ""


def _name_after_modules(proto: ModelProto, tensors: frozenset[str]) -> None:
    """Name nodes after modules, values after the nodes that make them, and numbered constants after who reads them."""
    graph = proto.graph
    fixed = {value.name for value in (*graph.input, *graph.output)}
    taken = set(fixed) | tensors
    renamed: dict[str, str] = {}
    for node in graph.node:
        name = _layer_name(node, tensors)
        # A layer may be called as the output that it makes: `boxes`. With one output it has had a number ever since.
        node.name = name if len(graph.output) > 1 and name in node.output else _free(name, taken)
        for index, value in enumerate(node.output):
            if value and value not in fixed:
                renamed[value] = node.name if index == 0 else _free(f"{node.name}.output{index}", taken)
        for index, value in enumerate(node.input):
            if value in tensors or value in renamed or value in fixed or not value:
                continue
            role = "bias" if index == _BIAS_INPUT and node.op_type in ("Conv", "ConvTranspose", "Gemm") else "constant"
            renamed[value] = _free(f"{node.name}.{role}", taken)
    _rename(graph, renamed)


def _layer_name(node: NodeProto, tensors: frozenset[str]) -> str:
    for value in node.input:
        if value.endswith(".weight") and value in tensors:
            return str(value.removesuffix(".weight"))
    properties = {entry.key: entry.value for entry in node.metadata_props}
    scopes: list[str] = ast.literal_eval(properties.get(_SCOPE_KEY, "[]"))
    module = scopes[-2] if len(scopes) > 1 else ""
    return ".".join(filter(None, (module, node.op_type)))


def _free(name: str, taken: set[str]) -> str:
    """Return `name`, with a number when it is taken, and take it."""
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


def _rename(graph: GraphProto, renamed: Mapping[str, str]) -> None:
    for tensor in (*graph.initializer, *graph.output):
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in graph.node:
        node.input[:] = [renamed.get(value, value) for value in node.input]
        node.output[:] = [renamed.get(value, value) for value in node.output]
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _rename(attribute.g, renamed)
