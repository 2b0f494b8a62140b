"""Times of a file's nodes in OpenVINO: its performance counters, and which operations a kernel stands for.

The compiled network tells for each kernel which operations of the file it was made of. OpenVINO hands out the mean
over all inferences since the network was compiled, in whole microseconds: the first ones, which are ten times as slow,
are taken off again, and the result is right to about a microsecond.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import openvino

from pipeline.analysis.cost import ONNX_WEIGHTED, OPENVINO_WEIGHTED
from pipeline.analysis.openvino_layers import read_layers
from pipeline.analysis.times import WARM_UP, NodeTime, NodeTimes
from pipeline.core.errors import InputError, first_line
from pipeline.export.execution import OPENVINO_SETTINGS
from pipeline.export.openvino import read_openvino
from pipeline.onnx_graph.file import read_onnx
from pipeline.onnx_graph.wiring import FileWiring

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.analysis.feeds import Feed
    from pipeline.results.file_inspection import Precision

    #: A node of the file, and whether it multiplies by weights.
    Owner = tuple[str, bool]

_PRECISIONS: dict[str, Precision] = {
    "u8": "int8",
    "i8": "int8",
    "u4": "int4",
    "i4": "int4",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
}
#: What cutting a mean to whole microseconds takes off it, on average.
HALF = 0.5
#: The kind of kernels that OpenVINO generates of several operations.
_GENERATED = "Subgraph"
#: How the names of kernels end: in the type that they compute in, whatever they read and hand on.
_ENDING = re.compile(r"_(?P<type>[a-zA-Z]+\d+)\)$")
#: Lines of an error that tell where in OpenVINO's own source it arose, and not why.
_WHERE = ("Exception from ", "Check '", "FrontEnd API failed")


def profile(file: Path, feed: Feed, *, runs: int, threads: int) -> NodeTimes:
    """Profile an IR or an ONNX file. Raises InputError when OpenVINO cannot read it."""
    model, owners = _read(file)
    if model.is_dynamic():
        model.reshape({name: list(value.shape) for name, value in feed.items()})
    settings = {**OPENVINO_SETTINGS, "INFERENCE_NUM_THREADS": threads, "PERF_COUNT": True}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    before = _averages(request, feed, WARM_UP)
    after = _averages(request, feed, runs)
    told = {each.get_friendly_name(): each.get_rt_info() for each in compiled.get_runtime_model().get_ordered_ops()}
    found = []
    for name, (kind, average) in after.items():
        nodes = _nodes(_text(told.get(name, {}), "originalLayersNames"), owners)
        summed = average * (WARM_UP + runs) - before.get(name, (kind, 0.0))[1] * WARM_UP
        found.append(
            NodeTime(
                name=next((node for node, heavy in nodes.items() if heavy), next(iter(nodes), name)),
                operator=kind,
                nanoseconds=max(0.0, 1000 * summed / runs),
                nodes=tuple(nodes),
                precision=_precision(kind, _text(told.get(name, {}), "runtimePrecision"), len(nodes)),
                own=bool(nodes),
            )
        )
    return NodeTimes("openvino", openvino.__version__.partition("-")[0], threads, runs, tuple(found))


def _averages(request: openvino.InferRequest, feed: Feed, times: int) -> dict[str, tuple[str, float]]:
    """Infer some times and return each kernel's kind and its mean time in microseconds, since the network was made."""
    for _ in range(times):
        request.infer(feed)
    executed = openvino.ProfilingInfo.Status.EXECUTED
    return {
        info.node_name: (f"{info.node_type} ({info.exec_type})", info.real_time.total_seconds() * 1e6 + HALF)
        for info in request.get_profiling_info()
        if info.status == executed
    }


def _read(file: Path) -> tuple[openvino.Model, dict[str, Owner]]:
    """Return the network, and the node of the file that each operation belongs to."""
    if file.suffix == ".xml":
        ir = read_layers(file)
        owners = {each.get_friendly_name(): (each.get_friendly_name(), False) for each in ir.model.get_ordered_ops()}
        for name, operation in ir.layers.items():
            owner = name, operation.get_type_name() in OPENVINO_WEIGHTED
            for end in (operation, ir.output(operation).get_node()):
                owners[end.get_friendly_name()] = owner
        return read_openvino(file), owners
    wiring = FileWiring(read_onnx(file))
    try:
        model = openvino.Core().read_model(wiring.model.SerializeToString())
    except RuntimeError as error:
        why = [line for line in str(error).splitlines() if line.strip() and not line.startswith(_WHERE)]
        reason = why[0] if why else first_line(error)
        raise InputError(f"{file} is not a readable model for OpenVINO: {reason}") from error
    nodes = wiring.model.graph.node
    # OpenVINO calls what makes an output of the network by the name of that output.
    named = {name: (node.name, node.op_type in ONNX_WEIGHTED) for node in nodes for name in node.output}
    return model, named | {node.name: (node.name, node.op_type in ONNX_WEIGHTED) for node in nodes}


def _nodes(listed: str, owners: Mapping[str, Owner]) -> dict[str, bool]:
    """Return the file's nodes among the operations that a kernel was made of, and whether they multiply by weights.

    `<name>/<part>` is part of the operation of that name.
    """
    found: dict[str, bool] = {}
    for each in listed.split(","):
        name = each
        while name and name not in owners:
            name = name.rpartition("/")[0]
        if name:
            found[owners[name][0]] = owners[name][1]
    return found


def _text(info: Mapping[str, object], key: str) -> str:
    """Return an entry of OpenVINO's notes as text; empty where there is none."""
    found = info[key] if key in info else ""  # noqa: SIM401 - OpenVINO's map has no get
    return str(getattr(found, "value", found))


def _precision(kind: str, told: str, nodes: int) -> Precision | None:
    """Return what a kernel computes in; None for a kernel generated of several operations, which may differ in it."""
    if kind.startswith(_GENERATED) and nodes > 1:
        return None
    ending = _ENDING.search(kind)
    return _PRECISIONS.get(ending["type"].lower() if ending else told)
