"""Where the layers of an IR are watched, and what is seen there: noise against the float ONNX file, clipping."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.analysis.cost import OPENVINO_WEIGHTED
from pipeline.analysis.feeds import sample_feeds
from pipeline.analysis.openvino_layers import FAKE, described, read_layers, readers
from pipeline.analysis.probes import Probe, watch
from pipeline.core.errors import InputError
from pipeline.export.execution import openvino_traces
from pipeline.export.openvino import openvino_specs, read_openvino
from pipeline.onnx_graph.execution import onnx_traces
from pipeline.onnx_graph.file import onnx_specs, read_onnx

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.analysis.feeds import Feed
    from pipeline.analysis.openvino_layers import IrLayers
    from pipeline.analysis.probes import LayerStatistics
    from pipeline.core.feeds import Feeds


def _ir_probes(ir: IrLayers) -> tuple[Probe, ...]:
    """Return where each layer of an IR is watched; layers whose output has no name are left out."""
    found = []
    for name, operation in ir.layers.items():
        output = ir.output(operation)
        if not output.names:
            continue
        fake = next((each for each in readers(output) if each.get_type_name() == FAKE), None)
        behind = fake.output(0) if fake is not None and fake.output(0).names else output
        weighted = operation.get_type_name() in OPENVINO_WEIGHTED
        axis = -1 if operation.get_type_name() == "MatMul" else 1
        raw = min(output.names)
        found.append(
            Probe(
                layer=name,
                raw=raw,
                after=min(behind.names),
                reference=raw,
                quantizer=None if fake is None else described(fake),
                axis=axis if weighted else None,
            )
        )
    return tuple(found)


def compared(float_model: Path, quantized: Path, samples: Feeds) -> dict[str, LayerStatistics]:
    """Run both files on images and return what was seen of each layer. Errors are those of `noise.layer_sqnr`."""
    inputs = openvino_specs(read_openvino(quantized))[0]
    return watch_ir(
        read_layers(quantized, inputs),
        sample_feeds(inputs, samples, str(quantized)),
        float_model,
        label=str(quantized),
    )


def watch_ir(
    ir: IrLayers, feeds: Sequence[Feed], float_model: Path | None, *, label: str
) -> dict[str, LayerStatistics]:
    """Run an IR on calls and return what was seen of each layer, without noise where there is no float file.

    What lies inside a fused kernel is watched by making it an output, so that it may be computed apart.
    """
    probes = _ir_probes(ir)
    wanted = {name for probe in probes for name in (probe.raw, probe.after)}
    found = openvino_traces(ir.model.clone(), feeds, wanted)
    if float_model is None:
        return watch(probes, found)
    model = read_onnx(float_model)
    names, expected = {spec.name for spec in onnx_specs(model)[0]}, {port.any_name for port in ir.model.inputs}
    if names != expected:
        raise InputError(f"{float_model} takes {sorted(names)}, {label} takes {sorted(expected)}: not the same")
    references = {probe.reference for probe in probes}
    if not references & {name for node in model.graph.node for name in node.output}:
        raise InputError(f"{float_model} and {label} have no tensor of the same name: compare with its float file")
    return watch(probes, found, onnx_traces(model, feeds, references, label=str(float_model)))
