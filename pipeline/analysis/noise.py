"""Noise that quantization brings into each layer of a file, against the float file that it was made of.

Tensors are found by name: quantizers keep the names of the tensors that they quantize. A layer whose tensor has another
name in the float file, or none, is left out. Both files run with nothing optimised (an IR on OpenVINO's integer
kernels, which cannot be told to emulate), in calls of the quantized file's batch.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx

from pipeline.analysis.feeds import sample_feeds
from pipeline.analysis.probes import Probe, watch
from pipeline.core.errors import InputError
from pipeline.onnx_graph.execution import onnx_traces
from pipeline.onnx_graph.file import onnx_specs, read_onnx
from pipeline.onnx_graph.links import DEQUANTIZE, QUANTIZE
from pipeline.onnx_graph.wiring import FileWiring, describe_quantizer, element_types

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from pipeline.analysis.feeds import Feed
    from pipeline.analysis.probes import LayerStatistics, Tensors
    from pipeline.core.feeds import Feeds

#: Ends the names of what a layer makes when it is computed alone.
_ALONE = "/alone"
#: Operators whose channels stand last: [N, C] or [N, tokens, C]; those of convolutions stand second.
LAST = frozenset({"MatMul", "Gemm", "MatMulNBits", "MatMulInteger", "QLinearMatMul", "QGemm"})


def layer_sqnr(float_model: Path, quantized: Path, samples: Feeds) -> dict[str, float]:
    """Return the ratio of signal to quantization noise in dB at each layer's output, by the name of the node.

    All layers before it are quantized as well. At most 150, which stands for equality; a layer whose output is zero on
    all samples is left out.

    Args:
        float_model: an ONNX file.
        quantized: an ONNX file or an IR (.xml) made of it.
        samples: inputs as the network takes them; the last call is filled up from the start.

    Raises:
        InputError: a file cannot be read, the samples do not fit, or no tensor has the same name in both.
    """
    seen = compared(float_model, quantized, samples)
    return {name: ratio for name, each in seen.items() if (ratio := each.sqnr_db) is not None}


def own_layer_sqnr(float_model: Path, quantized: Path, samples: Feeds) -> dict[str, float]:
    """Return the same for each layer alone: its inputs come from the float file. Of ONNX files in QDQ format only.

    Arguments and errors are those of `layer_sqnr`.
    """
    seen = compared(float_model, quantized, samples)
    return {name: ratio for name, each in seen.items() if (ratio := each.own_sqnr_db) is not None}


def compared(float_model: Path, quantized: Path, samples: Feeds) -> dict[str, LayerStatistics]:
    """Run both files on images and return what was seen of each layer. Errors are those of `layer_sqnr`."""
    if quantized.suffix == ".xml":
        from pipeline.analysis import openvino_noise as noise_openvino  # noqa: PLC0415

        return noise_openvino.compared(float_model, quantized, samples)
    wiring = FileWiring(read_onnx(quantized))
    feeds = sample_feeds(onnx_specs(wiring.model)[0], samples, str(quantized))
    return watch_onnx(wiring, feeds, float_model, label=str(quantized))


def watch_onnx(
    wiring: FileWiring, feeds: Sequence[Feed], float_model: Path | None, *, label: str
) -> dict[str, LayerStatistics]:
    """Run an ONNX graph on calls and return what was seen of each layer, without noise where there is no float file."""
    probes = tuple(_probe(node, wiring) for node in wiring.layers)
    wanted = {name for probe in probes for name in (probe.raw, probe.after)}
    found = onnx_traces(deepcopy(wiring.model), feeds, wanted, label=label)
    if float_model is None:
        return watch(probes, found)
    cut = Reference(float_model, wiring, probes, label)
    return watch(probes, found, cut.traces(feeds), cut.alone(feeds))


def _probe(node: NodeProto, wiring: FileWiring) -> Probe:
    raw = node.output[0]
    narrowed = wiring.narrowed(raw)
    weighted = any(name in wiring.fixed for name in node.input[1:2])
    kind = node.op_type
    axis = -1 if kind in LAST and weighted else 1 if "Conv" in kind else None
    return Probe(
        layer=node.name,
        raw=raw,
        after=wiring.after(raw),
        reference=raw,
        quantizer=None if narrowed is None else describe_quantizer(narrowed, wiring, raw),
        axis=axis,
    )


@dataclass(frozen=True)
class Reference:
    """The float file of a quantized graph, and that graph cut at every tensor that the float file has as well.

    Raises:
        InputError: it cannot be read, takes other inputs, or has no tensor of the graph's.
    """

    file: Path
    wiring: FileWiring
    probes: tuple[Probe, ...]
    label: str

    def traces(self, feeds: Sequence[Feed]) -> Iterator[dict[str, NDArray[Any]]]:
        """Return the float file's tensors that probes ask for, for each call."""
        model = self._model()
        wanted = {probe.reference for probe in self.probes}
        made = {name for node in model.graph.node for name in node.output}
        if not wanted & made:
            raise InputError(
                f"{self.file} and {self.label} have no tensor of the same name: compare with the float file that it "
                "was made from"
            )
        return onnx_traces(model, feeds, wanted, label=str(self.file))

    def alone(self, feeds: Sequence[Feed]) -> Iterator[Tensors]:
        """Yield what each layer makes of the float file's tensors, by layer, for each call."""
        known = {name for name, kind in element_types(self._model()).items() if kind == "float32"}
        apart = _apart(self.wiring, known)
        inputs = {value.name for value in apart.model.graph.input}
        original = {spec.name for spec in onnx_specs(self.wiring.model)[0]}
        exact = onnx_traces(self._model(), feeds, inputs, label=str(self.file))
        calls = (
            {name: value for name, value in {**feed, **tensors}.items() if name in inputs | original}
            for feed, tensors in zip(feeds, exact, strict=True)
        )
        for tensors in onnx_traces(apart.model, calls, apart.made, label=f"{self.label}, layer by layer"):
            yield {layer: tensors[name] for name, layer in apart.made.items() if name in tensors}

    def _model(self) -> ModelProto:
        model = read_onnx(self.file)
        found, expected = ({spec.name for spec in onnx_specs(each)[0]} for each in (model, self.wiring.model))
        if found != expected:
            raise InputError(f"{self.file} takes {sorted(found)}, {self.label} takes {sorted(expected)}: not the same")
        return model


@dataclass(frozen=True)
class Apart:
    """A graph whose layers do not read each other; `made` has the layer of each tensor to look at."""

    model: ModelProto
    made: Mapping[str, str]


def _apart(wiring: FileWiring, known: set[str]) -> Apart:
    """Cut a graph at every float tensor that is in `known`: layers read it as an input, and make it under another name.

    A pair of QuantizeLinear and DequantizeLinear after such a tensor stays for those who read it, and is copied for
    who makes it.
    """
    model = deepcopy(wiring.model)
    graph = model.graph
    declared = {value.name for value in (*graph.input, *graph.initializer)}
    layers = {node.name for node in wiring.layers}
    made: dict[str, str] = {}
    for node in list(graph.node):
        if node.name not in layers or node.output[0] not in known:
            continue
        tensor = node.output[0]
        alone = tensor + _ALONE
        node.output[0] = alone
        end = _copied_pair(wiring, graph, tensor, alone)
        if _reads_known(node, wiring, known, declared):
            made[end] = node.name
        if tensor in wiring.read_by and tensor not in declared:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    del graph.output[:]
    return Apart(model, made)


def _copied_pair(wiring: FileWiring, graph: Any, tensor: str, alone: str) -> str:  # noqa: ANN401 - protobuf has no types
    """Copy the pair behind a tensor for its other name; return the name of what comes out, or of what goes in."""
    after = wiring.after(tensor)
    if after == tensor:
        return alone
    widened = wiring.made_by[after]
    narrowed = wiring.made_by[widened.input[0]]
    for node, given, result in (
        (narrowed, alone, f"{alone}/{QUANTIZE}"),
        (widened, f"{alone}/{QUANTIZE}", f"{alone}/{DEQUANTIZE}"),
    ):
        copy = graph.node.add()
        copy.CopyFrom(node)
        copy.name, copy.input[0], copy.output[0] = result, given, result
    return f"{alone}/{DEQUANTIZE}"


def _reads_known(node: NodeProto, wiring: FileWiring, known: set[str], declared: set[str]) -> bool:
    """Say whether all that a layer reads comes from the float file, through its own quantizers at most."""
    moving = [wiring.before(name) for name in node.input if name and name not in wiring.fixed]
    return all(name in known or name in declared for name in moving)
